"""Binary layers: their tensors as the operator ScaledBinaryConv takes them, and in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import CheckpointError
from ...operators.sign_bits import BinaryWeight, unpack_signs
from ..base import Weights

__all__ = ["ScaledLayer", "apply_linear"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScaledLayer:
    """The inputs of ScaledBinaryConv, in its order; parts that a layer lacks have no effect.

    words, alpha     of the binary weight
    rprelu           (3, Cout): bias and the shift before, the slope, the shift after
    down, up         the low-rank branch, (rank, Cin) and (Cout, rank)
    values, indices  the sparse branch, (count) and int32 (2, count): outputs, then inputs
    """

    words: npt.NDArray[np.int32]
    alpha: Array
    rprelu: Array
    down: Array
    up: Array
    values: Array
    indices: npt.NDArray[np.int32]

    @classmethod
    def of(cls, weights: Weights, name: str) -> ScaledLayer:
        """The layer ``name``. Raises CheckpointError for sparse indices outside its weight."""
        state, weight = weights.state, weights.binary[f"{name}.weight"]
        cout, cin = weight.words.shape[0], weight.in_channels
        shift, slope = state[f"{name}.bias"], np.ones(cout, np.float32)
        after, of_convolution = np.zeros(cout, np.float32), f"{name}.relu.pr_prelu.weight" in state
        if of_convolution:
            shift = shift + state[f"{name}.relu.pr_bias0.bias"]
            slope = state[f"{name}.relu.pr_prelu.weight"]
            after = state[f"{name}.relu.pr_bias1.bias"]
        rprelu = np.stack([shift, slope, after])
        if f"{name}.skip_connection.values" not in state:
            return cls(weight.words, weight.alpha, rprelu, np.zeros((1, cin), np.float32),
                       np.zeros((cout, 1), np.float32), np.zeros(1, np.float32),
                       np.zeros((2, 1), np.int32))
        down, up = (state[f"{name}.lora.{part}.weight"]
                    for part in ("AB" if of_convolution else "BA"))
        return cls(weight.words, weight.alpha, rprelu, down, up,
                   state[f"{name}.skip_connection.values"],
                   _indices(state[f"{name}.skip_connection.indices_float"], (cout, cin), name))

    def inputs(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """Its tensors by name, in the operator's order."""
        return vars(self)


def _indices(stored: Array, shape: tuple[int, int], name: str) -> npt.NDArray[np.int32]:
    """Indices are stored as floats that training averages, hence rounded here."""
    rounded = np.rint(stored)
    if (rounded < 0).any() or (rounded >= np.array(shape)[:, None]).any():
        raise CheckpointError(f"{name}.skip_connection.indices_float has indices outside a weight "
                              f"of {shape[0]}x{shape[1]}; the file is damaged or of another "
                              "network")
    return rounded.astype(np.int32)


def apply_linear(weights: Weights, name: str, x: npt.NDArray[np.float64]
                 ) -> npt.NDArray[np.float64]:
    """A binary linear layer of a vector (Cin,), in float64."""
    layer = ScaledLayer.of(weights, name)
    weight: BinaryWeight = weights.binary[f"{name}.weight"]
    signs = unpack_signs(weight.words, weight.in_channels)[:, :, 0, 0].astype(np.float64)
    y = layer.alpha * np.abs(x).mean() * (signs @ np.sign(x)) + layer.rprelu[0]
    y += layer.up.astype(np.float64) @ (layer.down.astype(np.float64) @ x)
    np.add.at(y, layer.indices[0], layer.values.astype(np.float64) * x[layer.indices[1]])
    result: npt.NDArray[np.float64] = y
    return result
