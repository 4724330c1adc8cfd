"""The full-precision parts between binary layers, fed the outputs of the reference's layers.

Once a sign has flipped, everything after it differs, which could hide a fault there. So the graph
is cut at its binary layers: their outputs become inputs, which get the reference's values. What the
full-precision parts compute from them, up to each layer's input and to the prediction, must equal
the reference's values within rounding. ``layers`` checks the binary layers themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from .bundle_layers import FREE, Array, BundleLayers, run_session
from .statistics import CLEAN_SNR, PREDICTION, decibel, snr


@dataclass(frozen=True)
class SegmentCheck:
    """One full-precision part at one time step: ``end``, the layer whose input it computes, or
    ``prediction``; and its SNR in dB."""

    end: str
    timestep: int
    snr: float

    @property
    def passed(self) -> bool:
        return self.snr >= CLEAN_SNR

    @property
    def reason(self) -> str:
        if self.passed:
            return f"at least {decibel(CLEAN_SNR)}"
        where = "after the last binary layer" if self.end == PREDICTION else f"before {self.end}"
        return (f"the part {where} has {decibel(self.snr)}, below {decibel(CLEAN_SNR)}, with the "
                "reference's layers")


class Segments:
    """The bundle's graph cut at its binary layers, in one CPU backend."""

    def __init__(self, layers: BundleLayers, *, packed: bool, threads: int | None) -> None:
        self._layers = layers
        self._session = layers.session(_cut(layers), packed=packed, threads=threads)

    def check(self, feed: Mapping[str, Array], outputs: Mapping[str, Array],
              timestep: int) -> list[SegmentCheck]:
        """Check every part at one step; ``feed`` and ``outputs`` of ``TorchRunner`` with layers."""
        values = {**self._layers.graphs.constants(timestep), **feed, **outputs}
        found = run_session(self._session, values)
        checks = [SegmentCheck(layer.name, timestep, snr(outputs[f"{layer.key}.x"],
                                                         found[layer.inputs[0]]))
                  for layer in self._layers.layers if layer.inputs[0] in found]
        return [*checks, SegmentCheck(PREDICTION, timestep,
                                      snr(outputs[PREDICTION], found[PREDICTION]))]


def _cut(layers: BundleLayers) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(layers.model)
    graph, float32 = model.graph, onnx.TensorProto.FLOAT
    ends = {layer.output for layer in layers.layers}
    nodes = [node for node in graph.node if node.output[0] not in ends]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    # The constants of the removed layers would be unused inputs.
    for field in (graph.initializer, graph.input):
        kept = [value for value in field if value.name in used]
        del field[:]
        field.extend(kept)
    graph.input.extend(onnx.helper.make_tensor_value_info(name, float32, FREE)
                       for name in sorted(ends & used))
    made = {name for node in nodes for name in node.output} - {PREDICTION}
    starts = dict.fromkeys(layer.inputs[0] for layer in layers.layers)
    graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, FREE)
                        for name in starts if name in made)
    return model
