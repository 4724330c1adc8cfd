"""Each fused operator alone, against the layers that it fuses.

The graph that users run is made of fused operators; the one with taps, of what they are defined by
(``definitions.inline_fused``). So each fused operator gets the maps that the inlined graph computed
before it, and must return what the inlined graph computes after it. With ``layers`` and
``segments``, which compare the inlined graph with the reference, nothing of the graph as shipped is
left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ...operators.names import BINARY_DOWN, BINARY_FUSION, BINARY_UP, NORM_BINARY_CONV
from ..sessions import open_session
from .bundle_layers import BundleLayers, FusedOperator
from .statistics import decibel, snr

# An operator without float products sums integers and is the same kernels in one pass, its float32
# operations in the same order, so that every bit is the same.
BINARY = (NORM_BINARY_CONV, BINARY_FUSION, BINARY_DOWN, BINARY_UP)
EXACT = math.inf
# A direct float32 convolution leaves 120 to 140 dB; Winograd's transforms round about 10 times as
# much, which takes 20 dB. A bfloat16 has 8 significant bits: a factor is off by up to 2^-9 of
# itself, by 2^-10.6 in root mean square over both factors, which is 60 dB if a sum's terms are no
# larger than the sum; Winograd's differences and cancelling terms take some 20 dB of that.
FLOAT = 100.0
BOUNDS = {"bfloat16": 36.0}  # by what the operator may round factors to, where it is not FLOAT
# How many operators run in one session: few enough that their maps at once are no great memory.
_TOGETHER = 12


@dataclass(frozen=True)
class OperatorCheck:
    """One fused operator at one time step.

    operator    its output in the graph ("e3.h", "prediction")
    kind        NormConv, BinaryUp ...
    snr, bound  dB, against what the opened graph computes
    """

    operator: str
    kind: str
    timestep: int
    snr: float
    bound: float

    @property
    def exact(self) -> bool:
        """Whether it is held to every bit."""
        return self.bound == EXACT

    @property
    def passed(self) -> bool:
        return self.snr >= self.bound

    @property
    def reason(self) -> str:
        if self.passed:
            return "every bit is equal" if self.exact else f"at least {decibel(self.bound)}"
        wanted = ("but must be equal to the bit" if self.exact
                  else f"below {decibel(self.bound)}")
        return f"{self.kind} alone has {decibel(self.snr)}, {wanted}, of what it fuses"


class Operators:
    """The bundle's fused operators cut apart, and its opened graph, in one CPU backend."""

    def __init__(self, layers: BundleLayers, *, packed: bool, threads: int | None) -> None:
        self._layers = layers
        maps = [name for operator in layers.operators for name in (*operator.maps, operator.output)]
        self._opened = open_session(layers.tapped(maps), layers.graph.constants,
                                    threads=threads, packed=packed)
        self._sessions = []
        for first in range(0, len(layers.operators), _TOGETHER):
            chosen = layers.operators[first:first + _TOGETHER]
            model = _cut(layers, chosen)
            needed = {tensor.name for tensor in model.graph.initializer}
            self._sessions.append((chosen, open_session(
                model.SerializeToString(deterministic=True),
                {name: value for name, value in layers.graph.constants.items()
                 if name in needed}, threads=threads, packed=packed)))

    def check(self, noisy: np.ndarray, condition: np.ndarray, timestep: int
              ) -> list[OperatorCheck]:
        """Check every fused operator at one step, the opened graph fed this latent."""
        constants = self._layers.graphs.constants(timestep)
        values = {"noisy": noisy, "condition": condition, **constants}
        values.update(_run(self._opened, values))
        checks = []
        for chosen, session in self._sessions:
            found = _run(session, values)
            for operator in chosen:
                bound = EXACT if operator.kind in BINARY else BOUNDS.get(operator.compute, FLOAT)
                checks.append(OperatorCheck(
                    operator.output, operator.kind, timestep,
                    snr(values[operator.output], found[operator.output]), bound))
        return checks


def _run(session: Any, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a session by name, its inputs being among ``values``."""
    names = [value.name for value in session.get_outputs()]
    feeds = {value.name: np.ascontiguousarray(values[value.name.removesuffix(_GIVEN)])
             for value in session.get_inputs()}
    return dict(zip(names, session.run(names, feeds)))


_GIVEN = "/given"  # after the name of a map that is an input of the cut graph


def _cut(layers: BundleLayers, chosen: Sequence[FusedOperator]) -> onnx.ModelProto:
    """The operators as they are shipped, each map that one reads an input and each result an
    output."""
    shipped, float32, free = layers.shipped, onnx.TensorProto.FLOAT, ["N", None, None, None]
    outputs = {operator.output for operator in chosen}
    maps = {name for operator in chosen for name in operator.maps}
    nodes = []
    for node in shipped.graph.node:
        if node.output[0] in outputs:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for index, name in enumerate(node.input):
                copy.input[index] = f"{name}{_GIVEN}" if name in maps else name
            nodes.append(copy)
    used = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes, "operators",
        [value for value in shipped.graph.input if value.name in used]
        + [onnx.helper.make_tensor_value_info(f"{name}{_GIVEN}", float32, free)
           for name in sorted(maps)],
        [onnx.helper.make_tensor_value_info(operator.output, float32, free)
         for operator in chosen],
        [tensor for tensor in shipped.graph.initializer if tensor.name in used])
    return onnx.helper.make_model(graph, opset_imports=shipped.opset_import,
                                  ir_version=shipped.ir_version, functions=shipped.functions)
