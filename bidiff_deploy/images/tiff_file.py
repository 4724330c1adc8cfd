"""Reads TIFF files that Pillow does not open, by tifffile: grey with alpha, big-endian BigTIFF,
and 16-bit colour in separate planes.

Formats: TIFF 6.0, BigTIFF.
"""

from __future__ import annotations

import ctypes
import io
import logging
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError, one_line

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["read", "silence_libtiff"]

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_DEFLATE = (8, 32946)
_COMPRESSIONS = (1, 5, *_DEFLATE, 32773)  # none, LZW, Deflate, PackBits
_STRAIGHT_ALPHA = 2


def read(data: bytes, check: Callable[[int, int], None],
         why: object) -> tuple[np.ndarray, np.ndarray | None]:
    """The pixels, (H, W, 1 or 3), and the alpha, (H, W) or None, of a file's first page, as uint8
    or uint16.

    ``check``: called with width and height, raises if they are too large. ``why``: why Pillow does
    not read the file, for the error. Raises ImageError for other files, without the name.
    """
    try:
        import tifffile
    except ImportError:
        raise ImageError(f"it is a TIFF of a kind that needs the package tifffile ({one_line(why)})"
                         "; run: pip install tifffile, or convert it first") from None
    tifffile.logger().setLevel(logging.CRITICAL)  # our error is the one that is printed
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            check(page.imagewidth, page.imagelength)
            _check_kind(page)
            _check_strips(page, data)
            samples = page.asarray(maxworkers=1)
            return _samples(page, samples)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # of a damaged file, or a codec that is missing
        raise ImageError(f"it is a TIFF that is damaged or of an unsupported kind "
                         f"({one_line(error)}); convert it first") from None


def silence_libtiff() -> None:
    """Have Pillow's libtiff print nothing on stderr about damaged files, whose errors Pillow raises
    in its own words."""
    from PIL import _imaging

    with suppress(OSError, AttributeError):  # it is linked in another way, or absent
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _check_kind(page: TiffPage) -> None:
    kind = None
    extra = [int(value) for value in page.extrasamples]
    if page.dtype not in (np.uint8, np.uint16):
        kind = f"{page.dtype} samples"
    elif page.bitspersample not in (8, 16):
        kind = f"{page.bitspersample} bits a sample"
    elif page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        kind = f"colours of the kind {getattr(page.photometric, 'name', page.photometric)}"
    elif page.samplesperpixel - len(extra) != (3 if page.photometric == _RGB else 1):
        kind = f"{page.samplesperpixel} samples a pixel"
    elif 1 in extra:
        kind = "premultiplied alpha"
    elif page.imagedepth != 1:
        kind = f"a depth of {page.imagedepth}"
    elif page.compression not in _COMPRESSIONS:
        kind = f"compression {getattr(page.compression, 'name', page.compression)}"
    if kind is not None:
        raise ImageError(f"it is a TIFF with {kind}, which is not supported; convert it to 8 or 16 "
                         "bits, grey or RGB with straight alpha")


def _check_strips(page: TiffPage, data: bytes) -> None:
    """Raise ImageError for a strip that would be inflated to more than its pixels need."""
    if page.compression not in _DEFLATE or page.dtype is None:
        return
    limit = int(np.prod(page.chunks, dtype=np.int64)) * page.dtype.itemsize + 1024
    for offset, length in zip(page.dataoffsets, page.databytecounts):
        inflater = zlib.decompressobj()
        size, packed = 0, data[offset:offset + length]
        while packed and not inflater.eof:
            size += len(inflater.decompress(packed, 1 << 20))
            packed = inflater.unconsumed_tail
            if size > limit:
                raise ImageError("a strip of it is inflated to more than its pixels; it is damaged")


def _samples(page: TiffPage, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    samples = samples.reshape(
        (page.samplesperpixel, page.imagelength, page.imagewidth) if page.planarconfig == 2
        else (page.imagelength, page.imagewidth, page.samplesperpixel))
    if page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, 2)
    colours = 3 if page.photometric == _RGB else 1
    extra = [int(value) for value in page.extrasamples]
    pixels = samples[:, :, :colours]
    if page.photometric == _WHITE_IS_ZERO:
        pixels = ~pixels
    alpha = samples[:, :, colours + extra.index(_STRAIGHT_ALPHA)] if _STRAIGHT_ALPHA in extra \
        else None
    return np.ascontiguousarray(pixels), None if alpha is None else np.ascontiguousarray(alpha)
