"""Each fused operator alone, against the operators that it fuses.

The graph that users run has fused operators, the graph with taps their definitions. So each fused
operator gets the maps that the inlined graph computes before it, and must return what the inlined
graph computes after it. ``layers`` and ``segments`` compare the inlined graph with the reference;
together the three check every part of the graph that users run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from ...operators.names import BINARY_DOWN, BINARY_FUSION, BINARY_UP, NORM_BINARY_CONV
from .bundle_layers import FREE, Array, BundleLayers, FusedOperator, run_session
from .statistics import decibel, snr

# An operator without float products sums integers and does the same float32 operations in the same
# order as the kernels that it fuses, so every bit is equal.
BINARY = (NORM_BINARY_CONV, BINARY_FUSION, BINARY_DOWN, BINARY_UP)
EXACT = math.inf
# A direct float32 convolution leaves 120 to 140 dB; Winograd's transforms round about 10 times as
# much, which takes 20 dB. A bfloat16 has 8 significant bits: a factor is off by up to 2^-9 of
# itself, by 2^-10.6 in root mean square over both factors, which is 60 dB if a sum's terms are no
# larger than the sum; Winograd's differences and cancelling terms take some 20 dB of that.
FLOAT = 100.0
BOUNDS = {"bfloat16": 36.0}  # by the type to which an operator may round factors; else FLOAT
# Operators per session: few, to bound the memory of their maps.
_TOGETHER = 12
_GIVEN = "/given"  # after the name of a map that is an input of the cut graph


@dataclass(frozen=True)
class OperatorCheck:
    """One fused operator at one time step.

    operator    its output in the graph ("e3.h", "prediction")
    kind        NormConv, BinaryUp ...
    snr, bound  dB, against the inlined graph
    """

    operator: str
    kind: str
    timestep: int
    snr: float
    bound: float

    @property
    def exact(self) -> bool:
        """Whether every bit must be equal."""
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
        return (f"{self.kind} alone has {decibel(self.snr)}, {wanted}, against the operators that "
                "it fuses")


class Operators:
    """The bundle's fused operators cut out, and its inlined graph, in one CPU backend."""

    def __init__(self, layers: BundleLayers, *, packed: bool, threads: int | None) -> None:
        self._layers = layers
        maps = [name for operator in layers.operators for name in (*operator.maps, operator.output)]
        self._inlined = layers.session(layers.tapped(maps), packed=packed, threads=threads)
        self._sessions = []
        for first in range(0, len(layers.operators), _TOGETHER):
            chosen = layers.operators[first:first + _TOGETHER]
            self._sessions.append((chosen, layers.session(_cut(layers, chosen), packed=packed,
                                                          threads=threads)))

    def check(self, noisy: Array, condition: Array, timestep: int) -> list[OperatorCheck]:
        """Check every fused operator at one step, the inlined graph being fed this latent."""
        constants = self._layers.graphs.constants(timestep)
        values = {"noisy": noisy, "condition": condition, **constants}
        values.update(run_session(self._inlined, values))
        checks = []
        for chosen, session in self._sessions:
            found = run_session(session, values, _GIVEN)
            for operator in chosen:
                bound = (EXACT if operator.kind in BINARY
                         else BOUNDS.get(operator.compute or "float32", FLOAT))
                checks.append(OperatorCheck(
                    operator.output, operator.kind, timestep,
                    snr(values[operator.output], found[operator.output]), bound))
        return checks


def _cut(layers: BundleLayers, chosen: Sequence[FusedOperator]) -> onnx.ModelProto:
    """A graph of the chosen nodes; the maps that they read are its inputs, their results its
    outputs."""
    shipped, float32 = layers.shipped, onnx.TensorProto.FLOAT
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
        + [onnx.helper.make_tensor_value_info(f"{name}{_GIVEN}", float32, FREE)
           for name in sorted(maps)],
        [onnx.helper.make_tensor_value_info(operator.output, float32, FREE)
         for operator in chosen],
        [tensor for tensor in shipped.graph.initializer if tensor.name in used])
    return onnx.helper.make_model(graph, opset_imports=shipped.opset_import,
                                  ir_version=shipped.ir_version, functions=shipped.functions)
