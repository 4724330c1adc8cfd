"""Decoded photos in files that are mapped into memory, cut into tiles.

A crop of a photo stored row by row touches a page for every row. In tiles of 64x64 pixels (12 KB,
three pages) it touches little more than its own bytes; and what several processes read is in memory
once, where the operating system keeps it as long as there is room.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files import atomic_file

__all__ = ["SIDE", "Tiles", "Whole", "stored_bytes"]

SIDE = 64


class Whole:
    """A photo in memory, uint8 (H, W, 3)."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3); it has to lie inside."""
        return self.pixels[top:top + height, left:left + width]


class Tiles:
    """A photo in a file: uint8 (rows, columns, SIDE, SIDE, 3), zeros beyond its edges."""

    nbytes = 0  # it is the operating system's memory, not ours

    def __init__(self, mapped: np.ndarray) -> None:
        self._mapped = mapped

    @classmethod
    def open(cls, path: Path, height: int, width: int) -> Tiles | None:
        """The file's tiles; None if it is missing, damaged, or of a photo of another size."""
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return cls(mapped.view(np.ndarray)) if _is_tiled(mapped, height, width) else None

    @staticmethod
    def write(path: Path, pixels: np.ndarray) -> None:
        """Store uint8 (H, W, 3). Raises OutputError."""
        height, width = pixels.shape[:2]
        rows, columns, *_ = _shape(height, width)
        padded = np.zeros((rows * SIDE, columns * SIDE, 3), np.uint8)
        padded[:height, :width] = pixels
        tiles = padded.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
        with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
            np.save(file, np.ascontiguousarray(tiles))

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3); it has to lie inside."""
        rows, columns = (slice(start // SIDE, -(-(start + length) // SIDE))
                         for start, length in ((top, height), (left, width)))
        tiles = self._mapped[rows, columns]
        joined = tiles.swapaxes(1, 2).reshape(
            tiles.shape[0] * SIDE, tiles.shape[1] * SIDE, 3)
        above, before = top - rows.start * SIDE, left - columns.start * SIDE
        return joined[above:above + height, before:before + width]


def stored_bytes(height: int, width: int) -> int:
    """Bytes of a photo's tiles."""
    return int(np.prod(_shape(height, width), dtype=np.int64))


def _shape(height: int, width: int) -> tuple[int, ...]:
    return -(-height // SIDE), -(-width // SIDE), SIDE, SIDE, 3


def _is_tiled(mapped: np.ndarray, height: int, width: int) -> bool:
    return (mapped.dtype == np.uint8 and mapped.shape == _shape(height, width)
            and mapped.flags.c_contiguous)
