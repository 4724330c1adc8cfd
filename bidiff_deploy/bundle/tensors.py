"""Maps tensors, layers and parts to byte ranges of a bundle's weights file.

A byte that several tensors share belongs to the first of them, so that the bytes add up to the
file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..networks import parameters
from ..networks.base import Config
from ..networks.costs import Layer
from ..operators.value_names import short
from .step_graphs import StepGraphs

FLOAT_BYTES = 4
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


class BundleTensors:
    """The byte ranges of each initializer in the weights file, over all steps.

    places  the distinct (offset, length) of each name, in order of the steps
    size    bytes of the weights file
    """

    def __init__(self, *parts: StepGraphs) -> None:
        """``parts``: every graph of a bundle."""
        bundle = parts[0].bundle
        self.size: int = bundle.manifest["files"][bundle.weights]["bytes"]
        self.places = {name: dict.fromkeys(graphs.place(name, step) for step in graphs.bundle.steps)
                       for graphs in parts for name in graphs.built.tensors}

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The byte ranges (offset, length) that tensors use, ascending, each once."""
        return sorted({place for places in self.places.values() for place in places})

    @property
    def overlap(self) -> bool:
        """Whether byte ranges share bytes; ours are equal or share none."""
        ranges = self.ranges
        return any(offset + length > after
                   for (offset, length), (after, _) in zip(ranges, ranges[1:]))

    @property
    def unused(self) -> int:
        """Bytes of the file that belong to no tensor: alignment, if this package wrote it."""
        return max(0, self.size - sum(length for _, length in self.ranges))


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
        for name in self._tensors.places:
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
            for place in self._tensors.places.get(name, ()):
                memory += place[1]
                disk += place[1] * (place not in self._seen)
                self._seen.add(place)
        return Weight(disk, memory, checkpoint)


def _part(name: str) -> str:
    pieces = name.split(".")
    if any(piece.startswith("n") and piece[1:] in ("", "1", "2") for piece in pieces[1:]):
        return "norms"
    timed = "time" in pieces or pieces[0] in ("time_embed", "time_embedding")
    return "time vectors" if timed else "other"
