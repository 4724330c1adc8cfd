"""The graph that a bundle's network has, built from its options alone.

Export and this module call the same builder, which writes the same graph for the same options, op
set and precision, whatever the weights are. So an engine runs a graph of ours, and reads nothing
from a bundle but numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto

from ..errors import BundleError
from ..networks import network_of, parameters
from ..networks.base import STEP
from ..networks.quantised import LayerBounds, no_bounds
from ..operators.sign_bits import BinaryWeight, words_per_tap

__all__ = ["BuiltGraph", "TensorForm", "build_graph"]

_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int8": TensorProto.INT8}
# An honest weights file stores equal tensors once, so it may be smaller than what it holds.
_MAX_SHARED = 8
_SMALL = 1 << 20  # bytes that any weights file may hold so
_MAX_MADE_OF = 2  # parameters that one tensor is made of, on average


@dataclass(frozen=True)
class TensorForm:
    """What a tensor of the weights file is: ``dtype``, float32, int32 (both in little-endian
    order) or int8, and ``shape``."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class BuiltGraph:
    """A graph without values.

    model       its initializers are external tensors that name no place
    step_names  initializers that differ from step to step, in the graph's order
    tensors     the form of every initializer, by name, in the graph's order
    """

    model: ModelProto
    step_names: tuple[str, ...]
    tensors: Mapping[str, TensorForm]


@dataclass(frozen=True)
class _Shapes:
    """Weights of the right shapes that take no memory: every value is one zero."""

    config: Any
    state: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    binary: dict[str, BinaryWeight] = field(default_factory=dict)
    bounds: dict[str, LayerBounds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bounds.update((name, no_bounds(channels)) for name, channels
                           in network_of(self.config).int8_layers(self.config).items())
        for name, parameter in parameters(self.config).items():
            shape = parameter.shape
            if parameter.binary:
                cout, cin, k, _ = shape
                rows = cout * parameter.planes
                self.binary[name] = BinaryWeight(
                    np.broadcast_to(np.int32(0), (rows, k, k, words_per_tap(cin))),
                    np.broadcast_to(np.float32(0), (rows,)), cin, planes=parameter.planes)
            else:
                self.state[name] = np.broadcast_to(np.float32(0), shape)


def build_graph(config: Any, precision: str, timestep: int, weights_bytes: int,
                places: int, part: str = STEP) -> BuiltGraph:
    """Build the graph of one step of the network of ``config``, or of another ``part``.

    ``precision``: the bundle's. ``timestep``: any, as the values that depend on it are not built.
    ``weights_bytes``: size of the weights file; ``places``: how many tensors the bundle lists in
    it. A network that has far more of either is refused before it is built. Raises BundleError with
    the reason alone. The result is shared with other bundles, so it must not be changed.
    """
    network = network_of(config)
    wanted = count = 0
    for _, parameter in network.each_parameter(config):
        count += 1
        if not parameter.grouped:
            size = math.prod(parameter.shape) * parameter.planes
            wanted += size * 4 // (32 if parameter.binary else 1)
        if wanted > _MAX_SHARED * weights_bytes + _SMALL:
            raise BundleError("its network has more weights than its weights file of "
                              f"{weights_bytes} bytes can hold")
        if count > _MAX_MADE_OF * places:
            raise BundleError(f"its network has more tensors than the {places} that it lists")
    return _build(config, precision, timestep, part)


@functools.lru_cache(maxsize=4)  # a check or a benchmark opens its bundle several times
def _build(config: Any, precision: str, timestep: int, part: str) -> BuiltGraph:
    network, forms = network_of(config), dict[str, TensorForm]()

    def store(value: npt.NDArray[Any], name: str) -> TensorProto:
        forms[name] = TensorForm(value.dtype.newbyteorder("<"), value.shape)
        return TensorProto(name=name, data_type=_TYPES[value.dtype.name], dims=value.shape,
                           data_location=TensorProto.EXTERNAL)

    weights = _Shapes(config)
    built = (network.build_graph(weights, store, timestep, precision) if part == STEP
             else network.build_part(weights, store, part))
    return BuiltGraph(built.model, built.step_names, forms)
