"""What lies between the binary layers, fed what the reference's layers gave.

Once a sign has flipped, everything after it differs, and a fault there would hide behind it. So
the graph is cut at its binary layers: their outputs become inputs, which get the reference's
values, and what the full-precision parts make of them, up to each layer's input and to the
prediction, must be the reference's but for rounding. With ``layers``, which looks at the binary
layers themselves, nothing of a step is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ..sessions import open_session
from .bundle_layers import BundleLayers
from .statistics import CLEAN_SNR, PREDICTION, decibel, snr


@dataclass(frozen=True)
class SegmentCheck:
    """One full-precision part at one time step: ``end``, the layer that it leads to or
    ``prediction``, and its SNR in dB."""

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
        return (f"what is computed {where} has {decibel(self.snr)}, below {decibel(CLEAN_SNR)}, "
                "with the reference's own layers")


class Segments:
    """The bundle's graph cut at its binary layers, in one CPU backend."""

    def __init__(self, layers: BundleLayers, *, packed: bool, threads: int | None) -> None:
        self._layers = layers
        model = _cut(layers)
        needed = {tensor.name for tensor in model.graph.initializer}
        self._inputs = {value.name for value in model.graph.input}
        self._session = open_session(
            model.SerializeToString(deterministic=True),
            {name: value for name, value in layers.graph.constants.items() if name in needed},
            threads=threads, packed=packed)

    def check(self, feed: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray],
              timestep: int) -> list[SegmentCheck]:
        """``feed`` and ``outputs`` of ``TorchRunner`` with ``layers``, at this step."""
        values = {**self._layers.graphs.constants(timestep), **feed, **outputs}
        feeds = {name: np.ascontiguousarray(values[name]) for name in self._inputs}
        names = [output.name for output in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(names, feeds)))
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
    # The constants of the layers that are gone would be inputs that nothing reads.
    for field in (graph.initializer, graph.input):
        kept = [value for value in field if value.name in used]
        del field[:]
        field.extend(kept)
    free = ["N", None, None, None]
    graph.input.extend(onnx.helper.make_tensor_value_info(name, float32, free)
                       for name in sorted(ends & used))
    made = {name for node in nodes for name in node.output} - {PREDICTION}
    starts = dict.fromkeys(layer.inputs[0] for layer in layers.layers)
    graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, free)
                        for name in starts if name in made)
    return model
