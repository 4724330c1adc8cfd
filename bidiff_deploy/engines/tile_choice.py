"""Whole or in tiles, and of which size: what the user asks for, the memory there is, and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from .. import machine
from ..errors import UsageError
from ..images.tiles import MIN_TILE, OVERLAP, Sides, TilePlan, plan_tiles

__all__ = ["Tile", "WHOLE_PIXELS", "choose"]

Tile = int | None | Literal["auto"]

# Attention's time grows with the square of the area: a larger image is run faster in tiles.
WHOLE_PIXELS = 1 << 20
_SIDES = range(256, 1025, 64)  # of tiles, where memory allows; smaller ones see too little
_SMALL_SIDES = (192, 128, MIN_TILE)
_UNKNOWN_BUDGET = 2 << 30  # where the machine does not tell its memory


def choose(size: Sides, tile: Tile, memory: int | None, overlap: int | None, unit: int,
           work: Callable[[int, int], float], step_bytes: Callable[[int, int], int], *,
           usual_overlap: int = OVERLAP, whole_pixels: int = WHOLE_PIXELS) -> TilePlan:
    """The plan of an output of ``size``; the options are those of ``Engine.upscale_image``.

    ``work`` and ``step_bytes`` of a height and width: relative time, and peak bytes.
    ``usual_overlap`` where none is given; an image of up to ``whole_pixels`` that fits the memory
    is run whole.
    """
    _check("memory", memory, 1, "bytes")
    _check("overlap", overlap, 0, "pixels")
    if isinstance(tile, str) and tile != "auto":
        raise UsageError(f"tile is {tile!r}; give a number of pixels, None or 'auto'")

    def planned(side: int | None) -> TilePlan:
        half = -(-(side or 0) // unit) // 2 * unit
        shared = min(usual_overlap, half) if overlap is None else int(overlap)
        return plan_tiles(size, side, shared, unit, step_bytes)

    if tile != "auto":
        _check("tile", tile, MIN_TILE, "pixels")
        plan = planned(None if tile is None else int(tile))
        if memory is not None and plan.peak_bytes > memory:
            what = "the whole image" if plan.whole else f"tile {tile}"
            raise UsageError(f"{what} needs about {_mib(plan.peak_bytes)}, but memory is "
                             f"{_mib(memory)}; give more memory or smaller tiles")
        return plan
    budget = memory if memory is not None else _half_of_what_is_left()
    plan = planned(None)
    if plan.peak_bytes <= budget and size[0] * size[1] <= whole_pixels:
        return plan
    fitting = [plan for plan in map(planned, _allowed(_SIDES, overlap, unit))
               if plan.peak_bytes <= budget]
    if fitting:
        return min(fitting, key=lambda plan: plan.count * work(plan.tile_height,
                                                                       plan.tile_width))
    for side in _allowed(_SMALL_SIDES, overlap, unit):
        plan = planned(side)
        if plan.peak_bytes <= budget:
            return plan
    if memory is not None:
        raise UsageError(f"memory {_mib(memory)} is too little: the smallest tile that can be run, "
                         f"{plan.tile_width}x{plan.tile_height}, needs about "
                         f"{_mib(plan.peak_bytes)}")
    return plan


def _allowed(sides: range | tuple[int, ...], overlap: int | None, unit: int) -> Iterator[int]:
    return (side for side in sides if 2 * (-(-(overlap or 0) // unit) * unit) <= side)


def _half_of_what_is_left() -> int:
    available = machine.memory()["available"]
    return _UNKNOWN_BUDGET if available is None else available // 2


def _check(name: str, value: object, least: int, of_what: str) -> None:
    if value is None:
        return
    if not isinstance(value, (int, np.integer)) or isinstance(value, (bool, np.bool_)):
        raise UsageError(f"{name} is {value!r}; it must be a whole number of {of_what}")
    if value < least:
        raise UsageError(f"{name} is {value}; it must be at least {least} {of_what}")


def _mib(count: int) -> str:
    return f"{-(-count // (1 << 20))} MiB"
