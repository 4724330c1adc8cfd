"""Decoded photos, in memory or in files of tiles that are mapped into memory.

A crop of a photo stored row by row touches a page for every row. In tiles of 64x64 pixels (12 KB,
three pages) it touches little more than its own bytes. Processes that read the same file share one
copy, which the operating system keeps while there is room.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import atomic_file

__all__ = ["SIDE", "Tiles", "Whole", "stored_bytes"]

SIDE = 64
Pixels = npt.NDArray[np.uint8]


class Whole:
    """A photo in memory, uint8 (H, W, 3)."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def window(self, top: int, left: int, height: int, width: int) -> Pixels:
        """uint8 (height, width, 3); must be inside the photo."""
        return self.pixels[top:top + height, left:left + width]


class Tiles:
    """A photo in a file: uint8 (rows, columns, SIDE, SIDE, 3), zeros beyond its edges."""

    nbytes = 0  # the operating system's memory

    def __init__(self, mapped: Pixels) -> None:
        self._mapped = mapped

    @classmethod
    def open(cls, path: Path, height: int, width: int) -> Tiles | None:
        """The file's tiles; None if it is missing, damaged, or holds a photo of another size."""
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return cls(mapped.view(np.ndarray)) if _is_tiled(mapped, height, width) else None

    @staticmethod
    def write(path: Path, pixels: Pixels) -> None:
        """Store uint8 (H, W, 3). Raises OutputError."""
        height, width = pixels.shape[:2]
        rows, columns, *_ = _shape(height, width)
        padded = np.zeros((rows * SIDE, columns * SIDE, 3), np.uint8)
        padded[:height, :width] = pixels
        tiles = padded.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
        with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
            np.save(file, np.ascontiguousarray(tiles))

    def window(self, top: int, left: int, height: int, width: int) -> Pixels:
        """uint8 (height, width, 3); must be inside the photo."""
        rows, columns = (slice(start // SIDE, -(-(start + length) // SIDE))
                         for start, length in ((top, height), (left, width)))
        tiles = self._mapped[rows, columns]
        joined = tiles.swapaxes(1, 2).reshape(
            tiles.shape[0] * SIDE, tiles.shape[1] * SIDE, 3)
        top, left = top - rows.start * SIDE, left - columns.start * SIDE
        window: Pixels = joined[top:top + height, left:left + width]
        return window


def stored_bytes(height: int, width: int) -> int:
    """Bytes of a photo's tiles."""
    return int(np.prod(_shape(height, width), dtype=np.int64))


def _shape(height: int, width: int) -> tuple[int, int, int, int, int]:
    return -(-height // SIDE), -(-width // SIDE), SIDE, SIDE, 3


def _is_tiled(mapped: npt.NDArray[Any], height: int, width: int) -> bool:
    return (mapped.dtype == np.uint8 and mapped.shape == _shape(height, width)
            and mapped.flags.c_contiguous)
