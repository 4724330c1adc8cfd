"""Finds out whether a JPEG has all of its pixels, with or without an end marker."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError
from .jpeg_segments import Jpeg

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["completed"]

_END = b"\xff\xd9"
_FILLER = bytes((index * 151 + 37) % 251 for index in range(256))  # no 0xFF, so no marker
_MISSING = 64  # the last 1/64 of the rows may be missing
_REDUCED = 8  # a decoder's smallest size, one pixel a block


def completed(data: bytes, jpeg: Jpeg, open_image: Callable[[bytes], PillowImage],
              check: Callable[[int, int], None]) -> tuple[bytes, tuple[str, ...]]:
    """The file with an end marker, and notes that say what it lacks.

    ``jpeg``: its segments. ``check`` raises for an image that is too large to decode. Where data is
    missing, decoders fill the rest without a word, so that it cannot be seen in one result; but any
    other bytes that follow would be decoded into other pixels, while after the last pixel they are
    skipped. So the file is decoded with and without such bytes, and the first row that differs is
    where its data ends. Raises ImageError if more than 1/64 of the rows are missing, and as the
    decoder.
    """
    # Half a marker may be at the end of a file that was cut off.
    pixels = data[:jpeg.end] if jpeg.ended else data.rstrip(b"\xff")
    # A baseline file that was cut off lacks whole blocks, so one pixel of each is enough.
    reduced = jpeg.ended and not jpeg.progressive
    decoded: list[list[int]] = []
    height = 0
    for filler in (b"", _FILLER):
        with open_image(pixels + filler + _END) as opened:
            check(opened.width, opened.height)
            height = opened.height
            if reduced:
                opened.draft(None, (max(1, opened.width // _REDUCED),
                                    max(1, height // _REDUCED)))
            opened.load()
            # Of each row, so that no second image is in memory.
            decoded.append([zlib.crc32(row) for row in np.asarray(opened)])
    rows = len(decoded[0])
    first = next((row for row in range(rows) if decoded[0][row] != decoded[1][row]), None)
    missing = 0 if first is None else height - first * -(-height // rows)
    if missing * _MISSING > height:
        raise ImageError(f"it is cut off: {missing} of its {height} rows are missing; get the "
                         "whole file")
    if missing:
        note = f"it is cut off: its last {missing} of {height} rows are missing or damaged"
    elif jpeg.ended:
        return data, ()
    else:
        note = "it has no end marker, but its pixels are complete"
    return data if jpeg.ended else pixels + _END, (note,)
