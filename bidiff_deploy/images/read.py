"""Reads image files: PNG, JPEG, WebP, TIFF, BMP and GIF, 8 and 16 bit, grey, alpha and palette.

Pillow decodes (imported at first use). It does not support 16-bit colour, so ``sixteen_bit``
decodes such files twice to get both bytes of each sample; a second image library would need wheels
many times larger than this package.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import threading
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ImageError, one_line
from . import cut_jpeg, frames, jpeg_segments, png_chunks, sixteen_bit, tiff_file
from .decode import from_8_bits, orientation_of, upright
from .image import Image
from .kinds import HEAD_BYTES, is_other, kind_of, refusal
from .metadata import Metadata, usable_profile
from .metadata_read import from_file, from_tiff

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["MAX_PIXELS", "check_size", "decode_image", "read_bytes", "read_image"]

# What Pillow logs of damaged files would be printed; its errors are in ours.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# Larger images are refused, so that a small file cannot use up all memory.
MAX_PIXELS = 1 << 27


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a PNG, JPEG, WebP, TIFF, BMP or GIF file, recognised by its content, not its name.

    EXIF orientation is applied, palettes are expanded, a transparent colour becomes alpha, CMYK is
    converted to sRGB by its profile, and only the first of several frames is read. 16-bit grey and
    RGB keep their 16 bits. What is left out or approximate is listed in ``metadata.dropped``.
    Raises ImageError for a file that is missing, empty, damaged, of another format or of float
    samples, or has more than ``max_pixels``.
    """
    return decode_image(read_bytes(path, max_pixels), path, max_pixels)


def decode_image(data: bytes, path: str | os.PathLike[str],
                 max_pixels: int = MAX_PIXELS) -> Image:
    """``read_image`` of a file's bytes; error messages call it ``path``."""
    shown = os.fspath(path)
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    try:
        with _limit, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unused metadata, and many pixels
            before, pillow.MAX_IMAGE_PIXELS = pillow.MAX_IMAGE_PIXELS, max_pixels
            try:
                return _decoded(data, max_pixels)
            finally:
                pillow.MAX_IMAGE_PIXELS = before
    except ImageError as error:  # the reason alone
        raise ImageError(f"{shown}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{shown} {refusal(data[:HEAD_BYTES])}") from None
    except pillow.DecompressionBombError as error:  # at twice the limit, before much is allocated
        size = next(iter(re.findall(r"\d+", str(error))), "too many")
        raise ImageError(f"{shown}: {_too_many(size, max_pixels)}") from None
    except MemoryError:
        raise ImageError(f"there is not enough memory to read {shown}") from None
    except Exception as error:  # decoders raise all kinds of errors on damaged data
        raise ImageError(f"{shown} cannot be decoded: it is damaged or in an unsupported format "
                         f"({one_line(error)})") from None


# Of a file: 4 samples of 16 bits, and what is not pixels.
_PIXEL_BYTES, _OTHER_BYTES = 8, 1 << 29
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_limit = threading.Lock()  # Pillow's limit is global


def _decoded(data: bytes, max_pixels: int) -> Image:
    """``decode_image``; an ImageError of it does not name the file, which has no name here."""
    notes: tuple[str, ...] = ()
    png, check = None, partial(check_size, max_pixels=max_pixels)
    if data.startswith(png_chunks.SIGNATURE):
        # Pillow would refuse an image because of errors in its metadata.
        png = png_chunks.split(data)
        data = png.data
    elif data.startswith(b"\xff\xd8"):
        jpeg = jpeg_segments.split(data)
        try:
            data, notes = cut_jpeg.completed(data, jpeg, _open, check)
        except OSError:
            if not jpeg.unread:
                raise
            raise ImageError(f"it is a JPEG with {jpeg.unread}, which is not read; convert it to "
                             "PNG or TIFF") from None
    elif data[:4] in _TIFFS:
        tiff_file.silence_libtiff()
    from PIL import UnidentifiedImageError

    try:
        opened = _open(data)
    except UnidentifiedImageError:
        if kind_of(data[:HEAD_BYTES]) != "a TIFF image":
            raise
        pixels, alpha = tiff_file.read(data, check, "Pillow does not read it")
        return _with_metadata(Image(pixels, alpha), *from_tiff(data))
    with opened:
        check(opened.width, opened.height)
        metadata, profile, orientation = from_file(opened, png, data)
        deep = sixteen_bit.read(opened, data)
        image = from_8_bits(opened, data, profile) if deep is None else Image(*deep, profile)
        if opened.format == "WEBP" and frames.split_webp(data).lossless:
            image = replace(image, lossless=True)
        if deep is None and sixteen_bit.bits_of(opened) > 8:
            notes = (*notes, "its samples of more than 8 bits are rounded to 8 bits")
        metadata = replace(metadata, dropped=(*notes, *metadata.dropped, *image.metadata.dropped))
        return _with_metadata(image, metadata, image.icc_profile,
                              orientation_of(opened) if orientation is None else orientation)


def _open(data: bytes) -> PillowImage:
    """The file, opened but not decoded."""
    from PIL import Image as pillow

    return pillow.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"))


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError for an image of no pixels, or more than ``max_pixels``, before it is
    decoded."""
    if width * height == 0:
        raise ImageError(f"it is damaged: its size is {width}x{height} pixels; save it again")
    if width * height > max_pixels:
        raise ImageError(_too_many(f"{width}x{height}", max_pixels))


def _too_many(size: str, max_pixels: int) -> str:
    return (f"it has {size} pixels; at most {max_pixels} are read, so make it smaller, or allow "
            "more with --max-pixels of upscale or app")


def read_bytes(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> bytes:
    """The content of a file. Raises ImageError if it cannot be read, is empty, of a kind that is
    not read, or larger than an image of ``max_pixels`` can be."""
    shown = os.fspath(path)
    limit = max_pixels * _PIXEL_BYTES + _OTHER_BYTES
    try:
        if not stat.S_ISREG(os.stat(shown).st_mode):  # before it is opened: a pipe would wait
            raise ImageError(f"{shown} is not a file")
        with open(shown, "rb") as stream:
            data = stream.read(HEAD_BYTES)
            if is_other(data):
                raise ImageError(f"{shown} {refusal(data)}")
            size = os.fstat(stream.fileno()).st_size
            if size > limit:
                raise ImageError(f"{shown} has {size} bytes; with {max_pixels} pixels at most "
                                 f"{limit} are read, so save the image alone in a file, or allow "
                                 "more with --max-pixels of upscale")
            data += stream.read(size)
    except MemoryError:
        raise ImageError(f"there is not enough memory to read {shown}") from None
    except FileNotFoundError:
        raise ImageError(f"{shown} does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{shown!r} cannot be read: {reason}") from None
    if not data:
        raise ImageError(f"{shown} is empty (0 bytes), not an image")
    return data


def _with_metadata(image: Image, metadata: Metadata, profile: bytes | None,
                   orientation: int) -> Image:
    if not usable_profile(profile, image.grey):
        reason = f"it is broken, or not for {'grey' if image.grey else 'RGB'} samples"
        profile, metadata = None, replace(metadata, dropped=(
            *metadata.dropped, f"its colour profile is not kept: {reason}"))
    return upright(replace(image, icc_profile=profile, metadata=metadata), orientation)
