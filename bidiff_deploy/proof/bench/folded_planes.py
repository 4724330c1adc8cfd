"""Layers of several bits in the baselines of a benchmark: one convolution of whole codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...networks.bi_diffsr.binarizers import PLANES
from ...networks.bi_diffsr.config import NetworkConfig
from ...operators.sign_bits import dense_weight
from ..check.bundle_layers import BinaryLayer

__all__ = ["folded_codes", "folded_planes", "layers_of_planes"]


def layers_of_planes(layers: Iterable[BinaryLayer]) -> dict[str, list[BinaryLayer]]:
    """The binary convolutions of each layer of several bits, by that layer's name in the graph."""
    found: dict[str, list[BinaryLayer]] = {}
    for layer in layers:
        if PLANES in layer.name:
            found.setdefault(layer.key.partition(PLANES)[0], []).append(layer)
    return found


def folded_planes(planes: Sequence[BinaryLayer], config: NetworkConfig,
                   constants: Mapping[str, np.ndarray], tensors: dict[str, np.ndarray],
                   sign: bool) -> list[onnx.NodeProto]:
    """conv(round(M clip(x, 0, 1)), W / M) and the shortcut, M = 2^m - 1."""
    x, shortcut, output = planes[0].inputs[0], planes[0].residual, planes[-1].output
    weight = _weight_of_codes(planes, config, constants)
    names = [f"{output}/{part}" for part in ("most", "zero", "weight", "scaled", "clipped", "codes",
                                             "sums")]
    most, zero, taps, scaled, clipped, codes, sums = names
    tensors.update({most: np.float32(2 ** config.activation_bits - 1), zero: np.float32(0),
                    taps: weight})
    rounded = [helper.make_node("Mul", [x, most], [scaled]),
               helper.make_node("Clip", [scaled, zero, most], [clipped]),
               helper.make_node("Round", [clipped], [codes])]
    return [*(rounded if sign else []),
            helper.make_node("Conv", [codes if sign else x, taps], [sums],
                             pads=[weight.shape[-1] // 2] * 4),
            helper.make_node("Add", [sums, shortcut], [output])]


def _weight_of_codes(planes: Sequence[BinaryLayer], config: NetworkConfig,
                     constants: Mapping[str, np.ndarray]) -> np.ndarray:
    """W / M, float32 (Cout, Cin, k, k): twice what those of the least significant bit have."""
    of_bit = planes[-config.weight_bits:]
    weights = [dense_weight(constants[layer.inputs[1]], constants[layer.inputs[2]],
                            len(constants[layer.inputs[3]])) for layer in of_bit]
    found: np.ndarray = 2 * np.sum(weights, axis=0)
    return found


def folded_codes(layer: Any, planes: Sequence[BinaryLayer], config: NetworkConfig,
                 constants: Mapping[str, np.ndarray]) -> Any:
    """The same as ``folded_planes`` as a torch module, in place of a ``BitPlaneConv2d``."""
    import torch
    from torch.nn.functional import conv2d

    most = float(2 ** config.activation_bits - 1)

    class FoldedCodes(torch.nn.Module):
        weight: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.residual = layer.residual
            self.register_buffer("weight", torch.from_numpy(
                _weight_of_codes(planes, config, constants)))

        def forward(self, x: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
            codes = torch.round(torch.clamp(x * most, 0, most))
            y: torch.Tensor = conv2d(codes, self.weight, padding=layer.padding) + self.residual(x)
            return y

    return FoldedCodes()
