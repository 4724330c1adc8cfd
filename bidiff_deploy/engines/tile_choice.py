"""Whether an image is run whole or in tiles, and the tile size, by options, memory and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from .. import machine
from ..checks import whole_number
from ..errors import UsageError
from ..images.tiles import MIN_TILE, OVERLAP, Sides, TilePlan, plan_tiles

__all__ = ["Tile", "WHOLE_PIXELS", "choose"]

Tile = int | None | Literal["auto"]

# The time of attention grows with the square of the area, so larger images run faster in tiles.
WHOLE_PIXELS = 1 << 20
_SLOWER = 6  # a smaller image runs whole unless that takes so many times as long
_SIDES = range(256, 1025, 64)  # of tiles, where memory allows; smaller ones have little context
_SMALL_SIDES = (192, 128, MIN_TILE)
_UNKNOWN_BUDGET = 2 << 30  # if available memory is unknown


def choose(size: Sides, tile: Tile, memory: int | None, overlap: int | None, unit: int,
           work: Callable[[int, int], float], step_bytes: Callable[[int, int], int], *,
           usual_overlap: int = OVERLAP, whole_pixels: int = WHOLE_PIXELS,
           align: int = 0) -> TilePlan:
    """The tiles of an output of ``size``: (height, width) in pixels.

    tile, memory, overlap  as in ``ImageEngine.upscale_image``
    unit           sides of tiles are multiples of this
    align          overlaps of tiles, and where they begin, are multiples of this; 0: of ``unit``
    work           relative time of one tile of a height and width
    step_bytes     peak bytes of one tile of a height and width
    usual_overlap  the overlap if none is given
    whole_pixels   "auto" runs an output of at most this many pixels whole, if it fits the memory

    Raises UsageError for options that are out of range or contradict each other, and for a memory
    that is too small for any tile.
    """
    if memory is not None:
        memory = whole_number("memory", memory, 1, unit="bytes")
    if overlap is not None:
        overlap = whole_number("overlap", overlap, 0, unit="pixels")
    if isinstance(tile, str) and tile != "auto":
        raise UsageError(f"tile is {tile!r}; give a number of pixels, None or 'auto'")

    def planned(side: int | None) -> TilePlan:
        half = -(-(side or 0) // unit) * unit // 2 // (align or unit) * (align or unit)
        shared = min(usual_overlap, half) if overlap is None else overlap
        return plan_tiles(size, side, shared, unit, step_bytes, align)

    if tile != "auto":
        if tile is not None:
            tile = whole_number("tile", tile, MIN_TILE, unit="pixels")
        plan = planned(tile)
        if memory is not None and plan.peak_bytes > memory:
            what = "the whole image" if plan.whole else f"tile {tile}"
            raise UsageError(f"{what} needs about {_mib(plan.peak_bytes)}, but memory is "
                             f"{_mib(memory)}; give more memory or smaller tiles")
        return plan
    budget = memory if memory is not None else _half_of_available()


    def time(plan: TilePlan) -> float:
        return plan.count * work(plan.tile_height, plan.tile_width)

    whole = planned(None)
    fitting = [plan for plan in map(planned, _allowed(_SIDES, overlap, align or unit))
               if plan.peak_bytes <= budget]
    tiled = min(fitting, key=time) if fitting else None
    if (whole.peak_bytes <= budget and size[0] * size[1] <= whole_pixels
            and (tiled is None or time(whole) <= _SLOWER * time(tiled))):
        return whole
    if tiled is not None:
        return tiled
    for side in _allowed(_SMALL_SIDES, overlap, align or unit):
        plan = planned(side)
        if plan.peak_bytes <= budget:
            return plan
    if memory is not None:
        raise UsageError(f"memory {_mib(memory)} is too little: the smallest possible tile, "
                         f"{plan.tile_width}x{plan.tile_height}, needs about "
                         f"{_mib(plan.peak_bytes)}")
    return plan


def _allowed(sides: range | tuple[int, ...], overlap: int | None, unit: int) -> Iterator[int]:
    """The sides that have room for two overlaps."""
    return (side for side in sides if 2 * (-(-(overlap or 0) // unit) * unit) <= side)


def _half_of_available() -> int:
    available = machine.memory()["available"]
    return _UNKNOWN_BUDGET if available is None else available // 2


def _mib(count: int) -> str:
    return f"{-(-count // (1 << 20))} MiB"
