"""Cuts an image of any size into equal tiles that overlap, and blends their results.

    Cut  ->  sample (noise and condition are crops of the whole image's)  ->  Blender  ->  rows

Each tile runs through the whole loop. Tiles are crops of the padded image at multiples of the
padding, so the network's grid of halved resolutions is aligned on every tile as on the whole image.
They start from crops of one field of noise and of one condition. Three things remain local to a
tile: GroupNorm's statistics, attention, and the zero padding at its borders. Therefore tiles
overlap, a margin of each overlap is discarded, and the rest is a smooth ramp from one tile to the
next. The image's own borders have neither margin nor ramp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import UsageError

__all__ = ["Axis", "Blender", "MARGIN", "MIN_TILE", "OVERLAP", "TilePlan", "plan_tiles"]

MIN_TILE = 64
# Measured by tools/seams.py with the demo model and tiles of 256: with this overlap the gradient
# energy at borders is within 1 % of the whole image's on textures and photos, and 5 % less on a
# smooth gradient, where averaging two tiles reduces the remaining noise. Without overlap it is four
# times as much on smooth content; a wider overlap costs time and is no better.
OVERLAP = 32
MARGIN = 10  # discarded on either side of an overlap: where zero padding does the most harm

Sides = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """The tiles along height or width, in output pixels.

    size     of the output
    padded   of the padded output that tiles are crops of; a multiple of ``align``, and of ``unit``
             if it is one tile
    tile     side of each tile
    starts   first pixel of each tile, ascending multiples of ``align``; the last tile ends at
             ``padded``
    """

    size: int
    padded: int
    tile: int
    starts: tuple[int, ...]

    @classmethod
    def cut(cls, size: int, tile: int, overlap: int, unit: int, align: int = 0) -> Axis:
        """The fewest tiles that overlap by at least ``overlap``, evenly spaced at multiples of
        ``align``, by default ``unit``. ``tile`` is a multiple of ``unit``, ``overlap`` of
        ``align``; a size that fits one tile becomes one tile of that size."""
        align = align or unit
        padded = -(-size // unit) * unit
        if padded <= tile:
            return cls(size, padded, padded, (0,))
        padded = -(-size // align) * align
        steps = -(-(padded - tile) // (tile - overlap))
        starts = tuple((padded - tile) * i // (steps * align) * align for i in range(steps + 1))
        return cls(size, padded, tile, starts)

    @cached_property
    def ramps(self) -> tuple[tuple[int, int], ...]:
        """(begin, end) of the ramp from each tile to the next: all equally wide, centred in the
        overlap."""
        shared = [(b, a + self.tile) for a, b in zip(self.starts, self.starts[1:])]
        narrowest = min((end - begin for begin, end in shared), default=0)
        width = max(narrowest - 2 * MARGIN, min(narrowest, MARGIN))
        return tuple(((begin + end - width) // 2, (begin + end - width) // 2 + width)
                     for begin, end in shared)

    def weights(self, index: int) -> np.ndarray:
        """float32 (tile,): the tile's weight at each of its pixels; all tiles' weights sum to 1.

        The weight is the ramp into the tile minus the ramp out of it. Ramps are ascending curves of
        one shape, so their differences are never negative and sum to 1 wherever the ramps are.
        """
        places = np.arange(self.tile) + self.starts[index] + 0.5
        weight: np.ndarray = self._risen(index - 1, places) - self._risen(index, places)
        return weight.astype(np.float32)

    def _risen(self, ramp: int, places: np.ndarray) -> np.ndarray:
        """How far a ramp has risen at ``places``, from 0 to 1; 1 before the first, 0 after the
        last."""
        if ramp < 0:
            return np.ones_like(places)
        if ramp >= len(self.ramps):
            return np.zeros_like(places)
        begin, end = self.ramps[ramp]
        t = np.clip((places - begin) / max(end - begin, 1e-6), 0, 1)
        return np.asarray(0.5 - 0.5 * np.cos(np.pi * t))  # flat at both ends

    def first_row(self, index: int) -> int:
        """First row this tile contributes to; earlier rows are final without it."""
        if index >= len(self.starts):
            return self.size
        return self.ramps[index - 1][0] if index else 0


@dataclass(frozen=True)
class TilePlan:
    """How one image is run: ``rows`` and ``columns`` of tiles; one of each is the whole image.

    overlap     smallest overlap of neighbouring tiles, in output pixels
    step_bytes  estimated peak memory of a step on one tile and the loop around it
    """

    rows: Axis
    columns: Axis
    overlap: int
    step_bytes: int

    @property
    def count(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def whole(self) -> bool:
        return self.count == 1

    @property
    def tile_height(self) -> int:
        return self.rows.tile

    @property
    def tile_width(self) -> int:
        return self.columns.tile

    @property
    def height(self) -> int:
        return self.rows.size

    @property
    def width(self) -> int:
        return self.columns.size

    @property
    def peak_bytes(self) -> int:
        """``step_bytes`` plus the float rows being blended; the result's own pixels come on top.
        """
        return self.step_bytes + (0 if self.whole else 12 * self.tile_height * self.columns.padded)

    def to_dict(self) -> dict[str, int]:
        """JSON-ready: number and size of tiles, overlap and the estimated peak in bytes."""
        return {"tiles": self.count, "rows": len(self.rows.starts),
                "columns": len(self.columns.starts), "tile_height": self.tile_height,
                "tile_width": self.tile_width, "overlap": 0 if self.whole else self.overlap,
                "estimated_bytes": self.peak_bytes}


def plan_tiles(size: Sides, tile: int | None, overlap: int, unit: int,
               step_bytes: Callable[[int, int], int], align: int = 0) -> TilePlan:
    """The plan for an output of ``size`` (height, width) in tiles of side ``tile``; None: whole.

    Tiles are rounded up to multiples of ``unit``, overlaps to those of ``align``, by default
    ``unit``, at multiples of which tiles begin. ``step_bytes(height, width)``
    estimates a step's memory. Raises UsageError for an overlap of more than half a tile.
    """
    align = align or unit
    overlap = -(-overlap // align) * align
    if tile is None:
        tile = max(-(-side // unit) * unit for side in size)
    else:
        tile = -(-tile // unit) * unit
        if 2 * overlap > tile:
            raise UsageError(f"overlap {overlap} is more than half of tile {tile}; give a smaller "
                             "overlap or larger tiles")
    rows, columns = (Axis.cut(side, tile, overlap, unit, align) for side in size)
    return TilePlan(rows, columns, overlap, step_bytes(rows.tile, columns.tile))


class Blender:
    """Sums weighted tiles, one row of tiles at a time, and yields finished rows of pixels.

    It holds float rows of one tile's height, whatever the height of the image.
    """

    def __init__(self, plan: TilePlan, channels: int = 3) -> None:
        self._plan = plan
        self._rows = np.zeros((channels, plan.tile_height, plan.columns.padded), np.float32)
        self._across = [plan.columns.weights(i) for i in range(len(plan.columns.starts))]

    def add(self, row: int, column: int, tile: np.ndarray) -> None:
        """Add a tile, float32 (channels, tile_height, tile_width): all columns of a row, then
        ``finish(row)``, then the next row."""
        weight = self._plan.rows.weights(row)[:, None] * self._across[column]
        left = self._plan.columns.starts[column]
        self._rows[:, :, left:left + self._plan.tile_width] += tile * weight

    def finish(self, row: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (top, float32 (channels, height, width)) of the rows that no later tile changes,
        in pieces; they are views, valid until the next piece."""
        rows, plan = self._plan.rows, self._plan
        start, top, end = rows.starts[row], rows.first_row(row), rows.first_row(row + 1)
        for piece in range(top, end, MIN_TILE):
            last = min(piece + MIN_TILE, end)
            yield piece, self._rows[:, piece - start:last - start, :plan.width]
        if row + 1 < len(rows.starts):
            moved = rows.starts[row + 1] - start
            self._rows[:, :-moved] = self._rows[:, moved:]
            self._rows[:, -moved:] = 0
