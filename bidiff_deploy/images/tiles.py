"""Images of any size: tiles of one shape, each through the whole loop, blended where they overlap.

    Cut  ->  sample (noise and condition are crops of the whole image's)  ->  Blender  ->  rows

Tiles are crops of the padded image, at multiples of the padding, so that the network's grid of
halved resolutions lies on every tile as it lies on the whole. They start from crops of one field
of noise and of one condition. What remains different from the whole image is local: GroupNorm's
statistics and attention are those of a tile, and its borders see zeros where neighbours are.
Therefore tiles overlap, a margin of each overlap is thrown away, and the rest is a smooth ramp from
one tile to the next. An image's own borders have neither margin nor ramp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import UsageError

__all__ = ["Axis", "Blender", "MARGIN", "MIN_TILE", "OVERLAP", "TilePlan", "plan_tiles"]

MIN_TILE = 64
# By tools/seams.py with the demo model and tiles of 256, borders then have within 1 % the gradient
# energy of the whole image on textures and photos, and 5 % less on a smooth gradient, where
# averaging two tiles lessens the noise that is left. Without overlap it is four times as much on
# smooth content; a wider one costs time and is no better.
OVERLAP = 32
MARGIN = 10  # of an overlap, on either side: what zero padding spoils most

Sides = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """The tiles along height or width.

    size     of the output
    padded   of the padded output that tiles are crops of; a multiple of ``unit``
    tile     side of each tile
    starts   where they begin, ascending multiples of ``unit``; the last ends at ``padded``
    """

    size: int
    padded: int
    tile: int
    starts: tuple[int, ...]

    @classmethod
    def cut(cls, size: int, tile: int, overlap: int, unit: int) -> Axis:
        """As few tiles as overlap by ``overlap`` or more, evenly spread. ``tile`` and ``overlap``
        are multiples of ``unit``; a size that one tile holds becomes one tile of that size."""
        padded = -(-size // unit) * unit
        if padded <= tile:
            return cls(size, padded, padded, (0,))
        steps = -(-(padded - tile) // (tile - overlap))
        starts = tuple((padded - tile) * i // (steps * unit) * unit for i in range(steps + 1))
        return cls(size, padded, tile, starts)

    @cached_property
    def ramps(self) -> tuple[tuple[int, int], ...]:
        """(begin, end) of the ramp from each tile to the next, all of one width, centred in the
        overlap."""
        shared = [(b, a + self.tile) for a, b in zip(self.starts, self.starts[1:])]
        narrowest = min((end - begin for begin, end in shared), default=0)
        width = max(narrowest - 2 * MARGIN, min(narrowest, MARGIN))
        return tuple(((begin + end - width) // 2, (begin + end - width) // 2 + width)
                     for begin, end in shared)

    def weights(self, index: int) -> np.ndarray:
        """float32 (tile,): how much of each pixel comes from the tile; all tiles' sum to 1.

        A tile has what its ramp in has let in and its ramp out has not yet: the differences of
        ascending curves of one shape are never negative, and add up to 1 wherever they lie.
        """
        places = np.arange(self.tile) + self.starts[index] + 0.5
        weight = self._risen(index - 1, places) - self._risen(index, places)
        return weight.astype(np.float32)

    def _risen(self, ramp: int, places: np.ndarray) -> np.ndarray:
        if ramp < 0:
            return np.ones_like(places)
        if ramp >= len(self.ramps):
            return np.zeros_like(places)
        begin, end = self.ramps[ramp]
        t = np.clip((places - begin) / max(end - begin, 1e-6), 0, 1)
        return 0.5 - 0.5 * np.cos(np.pi * t)  # flat at both ends

    def first_row(self, index: int) -> int:
        """Where the tile begins to count; what lies before is finished without it."""
        if index >= len(self.starts):
            return self.size
        return self.ramps[index - 1][0] if index else 0


@dataclass(frozen=True)
class TilePlan:
    """How one image is run: ``rows`` and ``columns`` of tiles; one of each is the whole image.

    overlap     what neighbours share at least, in output pixels
    step_bytes  estimated peak of a step on one tile and the loop around it
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
        """``step_bytes`` and the float rows under way; the result's own pixels come on top."""
        return self.step_bytes + (0 if self.whole else 12 * self.tile_height * self.columns.padded)

    def to_dict(self) -> dict[str, int]:
        """JSON-ready: tiles, their size, overlap and the estimated peak in bytes."""
        return {"tiles": self.count, "rows": len(self.rows.starts),
                "columns": len(self.columns.starts), "tile_height": self.tile_height,
                "tile_width": self.tile_width, "overlap": 0 if self.whole else self.overlap,
                "estimated_bytes": self.peak_bytes}


def plan_tiles(size: Sides, tile: int | None, overlap: int, unit: int,
               step_bytes: Callable[[int, int], int]) -> TilePlan:
    """The plan of an output of ``size`` (height, width) with tiles of side ``tile``; None: whole.

    Tile and overlap are rounded up to multiples of ``unit``. ``step_bytes(height, width)``
    estimates a step. Raises UsageError for an overlap of more than half a tile.
    """
    overlap = -(-overlap // unit) * unit
    if tile is None:
        tile = max(-(-side // unit) * unit for side in size)
    else:
        tile = -(-tile // unit) * unit
        if 2 * overlap > tile:
            raise UsageError(f"overlap {overlap} is more than half of tile {tile}; give a smaller "
                             "overlap or larger tiles")
    rows, columns = (Axis.cut(side, tile, overlap, unit) for side in size)
    return TilePlan(rows, columns, overlap, step_bytes(rows.tile, columns.tile))


class Blender:
    """Adds tiles up, row by row of tiles, and gives away rows of pixels as they are finished.

    It holds float rows of one tile's height, whatever the height of the image.
    """

    def __init__(self, plan: TilePlan, channels: int = 3) -> None:
        self._plan = plan
        self._rows = np.zeros((channels, plan.tile_height, plan.columns.padded), np.float32)
        self._across = [plan.columns.weights(i) for i in range(len(plan.columns.starts))]

    def add(self, row: int, column: int, tile: np.ndarray) -> None:
        """Add float32 (channels, tile_height, tile_width); all columns of a row, then the next."""
        weight = self._plan.rows.weights(row)[:, None] * self._across[column]
        left = self._plan.columns.starts[column]
        self._rows[:, :, left:left + self._plan.tile_width] += tile * weight

    def finish(self, row: int) -> Iterator[tuple[int, np.ndarray]]:
        """(top, float32 (channels, height, width)) of the pixels that no later row of tiles
        reaches, in pieces; views, valid until the next is asked for."""
        rows, plan = self._plan.rows, self._plan
        start, top, end = rows.starts[row], rows.first_row(row), rows.first_row(row + 1)
        for piece in range(top, end, MIN_TILE):
            last = min(piece + MIN_TILE, end)
            yield piece, self._rows[:, piece - start:last - start, :plan.width]
        if row + 1 < len(rows.starts):
            moved = rows.starts[row + 1] - start
            self._rows[:, :-moved] = self._rows[:, moved:]
            self._rows[:, -moved:] = 0
