"""Maps tensors, layers and parts to byte ranges of a bundle's weights file.

Reads all step graphs; tensors are checked as an engine checks them. A byte that several tensors
share belongs to the first of them, so that the bytes add up to the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from ..networks import parameters
from ..networks.base import Config
from ..networks.costs import Layer
from ..operators.value_names import short
from .step_graphs import StepGraphs, misfit

FLOAT_BYTES = 4
MAX_NAME = 80
PARTS = ("norms", "time vectors", "other")  # of tensors that belong to no layer


@dataclass(frozen=True)
class Weight:
    """Bytes of a layer or part.

    disk        of its tensors in the weights file; shared bytes count at the first tensor
    memory      of its tensors in one session with the constants of all steps, without the copies
                of sign words that kernels repack
    checkpoint  of the parameters that it was made from, as float32
    """

    disk: int
    memory: int
    checkpoint: int


def printable_graph(graphs: StepGraphs, file: str) -> onnx.ModelProto:
    """A step's graph whose names can be printed: a stranger's could control a terminal, and those
    that are not UTF-8 are bytes. Raises BundleError for others."""
    model = graphs.read(file)
    names = [tensor.name for tensor in model.graph.initializer]
    for node in model.graph.node:
        names += [node.op_type, node.domain, *node.input, *node.output]
    for function in model.functions:
        names += [function.domain, function.name]
    names += [opset.domain for opset in model.opset_import]
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_NAME:
            raise misfit(graphs.path / file, f"{name[:MAX_NAME]!r} is not a printable name")
    return model


def _place(graphs: StepGraphs, tensor: onnx.TensorProto, file: str) -> tuple[int, int]:
    """(offset, length) of a tensor's bytes in the weights file."""
    length = graphs.view(tensor, file).nbytes
    return next(int(e.value) for e in tensor.external_data if e.key == "offset"), length


class BundleTensors:
    """The byte ranges of each initializer in the weights file, over all steps.

    places  the distinct (offset, length) of each name, in order of the steps
    inline  bytes of each tensor that is stored in the graph itself
    size    bytes of the weights file
    wrong   sentences: why the graphs are not one graph with step constants
    """

    def __init__(self, graphs: StepGraphs) -> None:
        bundle = graphs.bundle
        self.places: dict[str, dict[tuple[int, int], None]] = {}
        self.inline: dict[str, int] = {}
        self.size: int = bundle.manifest["files"][bundle.weights]["bytes"]
        self.wrong: list[str] = []
        nodes, shapes = None, None
        for step in bundle.steps:
            model = printable_graph(graphs, step.file)
            for tensor in model.graph.initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    place = _place(graphs, tensor, step.file)
                    self.places.setdefault(tensor.name, {})[place] = None
                else:
                    self.inline[tensor.name] = tensor.ByteSize()
            new_shapes = {t.name: (t.data_type, tuple(t.dims)) for t in model.graph.initializer}
            new_nodes = [node.SerializeToString(deterministic=True) for node in model.graph.node]
            if nodes is None:
                nodes, shapes = new_nodes, new_shapes
            elif (new_nodes, new_shapes) != (nodes, shapes):
                self.wrong.append(f"{step.file} has other nodes or tensors than "
                                  f"{bundle.steps[0].file}; engines run the latter")
        varying = {name for name, places in self.places.items() if len(places) > 1}
        for name in sorted(set(bundle.step_initializers) - set(self.places)):
            self.wrong.append(f"step_initializers names {name!r}, which no graph has")
        for name in sorted(varying - set(bundle.step_initializers)):
            self.wrong.append(f"{name} differs from step to step, but step_initializers does not "
                              "name it; engines run all steps with one value")

    @property
    def lengths(self) -> list[int]:
        """Length of each byte range that tensors use, each range once."""
        return [length for _, length in
                {place for places in self.places.values() for place in places}]

    @property
    def unused(self) -> int:
        """Bytes of the file that belong to no tensor: alignment, if this package wrote it."""
        return self.size - sum(self.lengths)


class ByteAccounting:
    """Attributes each byte of the weights file to one layer or part."""

    def __init__(self, tensors: BundleTensors, config: Config) -> None:
        self._tensors = tensors
        self._sizes = {name: FLOAT_BYTES * math.prod(parameter.shape)
                       for name, parameter in parameters(config).items()}
        self._seen: set[tuple[int, int]] = set()
        self._names: set[str] = set()

    def layer(self, layer: Layer | None, names: Iterable[str]) -> Weight:
        """Bytes of the tensors ``names``, and of the parameters of ``layer``."""
        checkpoint = 0
        if layer is not None:
            for name in [n for n in self._sizes if n.startswith(f"{layer.name}.")]:
                checkpoint += self._sizes.pop(name)
        return self._weigh(names, checkpoint)

    def parts(self) -> dict[str, Weight]:
        """Bytes that belong to no layer, by part; to be called after the layers."""
        names: dict[str, list[str]] = {part: [] for part in PARTS}
        checkpoint = dict.fromkeys(PARTS, 0)
        for name in (*self._tensors.places, *self._tensors.inline):
            names[_part(name)].append(name)
        for name, size in self._sizes.items():
            checkpoint[_part(short(name))] += size
        return {part: self._weigh(names[part], checkpoint[part]) for part in PARTS}

    def _weigh(self, names: Iterable[str], checkpoint: int) -> Weight:
        disk = memory = 0
        for name in names:
            if name in self._names:
                continue
            self._names.add(name)
            memory += self._tensors.inline.get(name, 0)
            for place in self._tensors.places.get(name, ()):
                memory += place[1]
                disk += place[1] * (place not in self._seen)
                self._seen.add(place)
        return Weight(disk, memory, checkpoint)


def _part(name: str) -> str:
    pieces = name.split(".")
    if any(piece.startswith("n") and piece[1:] in ("", "1", "2") for piece in pieces[1:]):
        return "norms"
    return "time vectors" if "time" in pieces or pieces[0] == "time_embedding" else "other"
