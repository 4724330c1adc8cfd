"""Reads a JPEG without an end marker, if its pixels are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["completed"]

_END = b"\xff\xd9"
_FILLER = bytes((index * 151 + 37) % 251 for index in range(256))  # no 0xFF, so no marker
_MISSING = 64  # the last 1/64 of the rows may be missing


def completed(data: bytes, open_image: Callable[[bytes], PillowImage],
              check: Callable[[int, int], None]) -> tuple[bytes, tuple[str, ...]]:
    """The file with an end marker, and a note that says what it lacks.

    ``check`` raises for an image that is too large to decode. Where data is missing, decoders fill
    the rest, so that it cannot be seen in one result; but any other bytes that follow would be
    decoded into other pixels, while after the last pixel they are skipped. So the file is decoded
    with and without such bytes, and the first row that differs is where its data ends. Raises
    ImageError if more than 1/64 of the rows are missing, and as the decoder.
    """
    data, decoded = data.rstrip(b"\xff"), []  # half a marker
    for filler in (b"", _FILLER):
        with open_image(data + filler + _END) as opened:
            check(opened.width, opened.height)
            opened.load()
            decoded.append(np.asarray(opened))
    differs = (decoded[0] != decoded[1]).reshape(len(decoded[0]), -1).any(axis=1)
    height = len(differs)
    missing = height - int(differs.argmax()) if differs.any() else 0
    if missing * _MISSING > height:
        raise ImageError(f"it is cut off: {missing} of its {height} rows are missing; get the "
                         "whole file")
    note = f"it is cut off: its last {missing} of {height} rows are missing or damaged" if missing \
        else "it has no end marker, but its pixels are complete"
    return data + _END, (note,)
