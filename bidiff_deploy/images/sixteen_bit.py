"""Reads 16-bit PNG and TIFF, which Pillow cannot decode directly.

Pillow unpacks a 16-bit colour sample to its high byte. It has unpackers for both byte orders, so
unpacking the same bytes in the other order yields the low byte; together they are the whole
sample. Pillow's inflating, unfiltering and LZW run in C for both.

Formats: PNG (ISO/IEC 15948), TIFF 6.0.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError
from . import tiff_file
from .png_chunks import png_chunks

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["bits_of", "read"]

Samples = tuple[np.ndarray, "np.ndarray | None"]  # pixels and alpha


def read(opened: PillowImage, data: bytes) -> Samples | None:
    """The samples of a 16-bit grey or colour file that Pillow has opened, or of an 8-bit one that
    it would decode wrongly.

    ``data``: the file. Returns (H, W, 1 or 3), and alpha as (H, W) or None; or None for a file
    that Pillow decodes. Raises ImageError for unsupported 16-bit files, with the reason but not
    the file's name, and whatever Pillow raises for damaged data.
    """
    if opened.format == "PNG" and len(data) > 28 and data[24] == 16:
        return _read_png(opened, data)
    if opened.format == "TIFF" and bits_of(opened) > 8:
        return _read_tiff(opened, data)
    if opened.mode == "LA" and getattr(opened, "tag_v2", {}).get(284) == 2:
        return _read_planes(data, "grey and alpha in separate planes")  # Pillow misreads them
    return None


def bits_of(opened: PillowImage) -> int:
    """Most bits of a sample of a TIFF that Pillow has opened; 8 for another format."""
    bits = getattr(opened, "tag_v2", {}).get(258, (1,)) if opened.format == "TIFF" else 8
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _read_png(opened: PillowImage, data: bytes) -> Samples:
    from PIL import Image as pillow

    opened.load()  # verifies the checksums, and reads what follows the pixels
    size, interlaced = opened.size, data[28]
    content = b"".join(data[start + 8:start + 8 + length]
                       for name, start, length in png_chunks(data) if name == b"IDAT")

    def unpacked(mode: str, raw_mode: str) -> np.ndarray:
        return np.asarray(pillow.frombytes(mode, size, content, "zip", (raw_mode, interlaced)))

    colour_type = data[25]
    alpha = None
    if colour_type == 4:  # four bytes a pixel, unpacked as if they were RGBA
        joined = _join(*np.moveaxis(unpacked("RGBA", "RGBA").reshape(*size[::-1], 2, 2), 3, 0))
        samples, alpha = joined[:, :, :1], joined[:, :, 1]
    elif colour_type == 0:
        samples = unpacked("I;16", "I;16B").astype(np.uint16)[:, :, None]
    else:
        mode = "RGBA" if colour_type == 6 else "RGB"
        joined = _join(unpacked(mode, f"{mode};16B"), unpacked(mode, f"{mode};16L"))
        samples, alpha = joined[:, :, :3], joined[:, :, 3] if colour_type == 6 else None
    key = opened.info.get("transparency")
    if alpha is None and key is not None:
        alpha = np.where((samples == np.array(key)).all(axis=2), 0, 65535).astype(np.uint16)
    return np.ascontiguousarray(samples), alpha


def _read_tiff(opened: PillowImage, data: bytes) -> Samples | None:
    from PIL.TiffImagePlugin import TiffImageFile

    assert isinstance(opened, TiffImageFile)
    bits = opened.tag_v2.get(258, (1,))
    bits = bits if isinstance(bits, tuple) else (bits,)
    photometric = opened.tag_v2.get(262)
    if set(bits) == {16} and opened.tag_v2.get(284, 1) == 2 and len(bits) > 1:
        return _read_planes(data, "16-bit samples in separate planes")  # Pillow keeps 8 bits
    if opened.mode.startswith("I;16") and photometric in (0, 1) and bits[0] in (12, 16):
        opened.load()
        grey = np.asarray(opened).astype(np.uint16)
        if bits[0] == 12:
            grey = np.rint(np.minimum(grey, 4095) * (65535 / 4095)).astype(np.uint16)
        return (~grey if photometric == 0 else grey)[:, :, None], None
    if opened.mode not in ("RGB", "RGBA") or photometric != 2:
        return None  # refused or converted like all unusual modes
    arguments: list[Any] = [tile[3] for tile in opened.tile]
    raw_modes = {one if isinstance(one, str) else one[0] for one in arguments}
    raw_mode = raw_modes.pop() if len(raw_modes) == 1 else ""
    base, _, order = raw_mode.rpartition(";")
    if (set(bits) != {16} or base not in ("RGB", "RGBA", "RGBX")
            or order not in ("16L", "16B", "16N")):
        raise ImageError("TIFF colour of more than 8 bits a sample is supported only with 16 bits "
                         "and straight alpha; convert it first")
    native = "16L" if sys.byteorder == "little" else "16B"
    swapped = "16B" if (native if order == "16N" else order) == "16L" else "16L"
    with TiffImageFile(io.BytesIO(data)) as again:
        again.tile = [_with_raw_mode(tile, f"{base};{swapped}") for tile in again.tile]
        again.load()
        low = np.asarray(again)
    opened.load()
    joined = _join(np.asarray(opened), low)
    alpha = joined[:, :, 3] if base == "RGBA" else None
    return np.ascontiguousarray(joined[:, :, :3]), alpha


def _read_planes(data: bytes, why: str) -> Samples:
    return tiff_file.read(data, lambda width, height: None, why)  # the size has been checked


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    """Pillow's description of one strip, a plain tuple before Pillow 11, with another raw mode."""
    codec, extents, offset, arguments = tile
    changed = (codec, extents, offset, (raw_mode, *arguments[1:]))
    return changed if type(tile) is tuple else type(tile)(*changed)


def _join(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    joined: np.ndarray = (high.astype(np.uint16) << np.uint16(8)) | low
    return joined
