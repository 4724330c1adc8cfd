"""Reads image files: PNG, JPEG, WebP and TIFF, 8 and 16 bit, grey, alpha and palette.

Pillow decodes (imported at first use). It does not support 16-bit colour, so ``sixteen_bit``
decodes such files twice to get both bytes of each sample; a second image library would need wheels
many times larger than this package.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import replace
from pathlib import Path

from ..errors import ImageError, one_line
from . import png_chunks, sixteen_bit
from .decode import from_8_bits, orientation_of, upright
from .image import Image
from .metadata import Metadata, from_file, usable_profile

__all__ = ["MAX_PIXELS", "decode_image", "read_bytes", "read_image"]

# Larger images are refused, so that a small file cannot use up all memory. Pillow has a limit of
# its own (it refuses more than twice PIL.Image.MAX_IMAGE_PIXELS), which applies as well.
MAX_PIXELS = 1 << 27


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a PNG, JPEG, WebP or TIFF file, recognised by its content, not its name.

    EXIF orientation is applied, palettes are expanded, a transparent colour becomes alpha, other
    colour spaces (CMYK, Lab) are converted to RGB, and only the first of several frames is read.
    16-bit grey and RGB keep their 16 bits. Broken metadata is left out and listed in
    ``metadata.dropped``. Raises ImageError for a file that is missing, empty, damaged, of another
    format or of float samples, or has more than ``max_pixels``.
    """
    return decode_image(read_bytes(path), path, max_pixels)


def decode_image(data: bytes, path: str | os.PathLike[str],
                 max_pixels: int = MAX_PIXELS) -> Image:
    """``read_image`` of a file's bytes; error messages call it ``path``."""
    shown = os.fspath(path)
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    try:
        return _decoded(data, max_pixels)
    except ImageError as error:  # the reason alone
        raise ImageError(f"{shown}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{shown} is not a PNG, JPEG, WebP or TIFF image, or is damaged") from None
    except pillow.DecompressionBombError as error:
        raise ImageError(f"{shown} is too large: {error}") from None
    except MemoryError:
        raise ImageError(f"there is not enough memory to read {shown}") from None
    except Exception as error:  # decoders raise all kinds of errors on damaged data
        raise ImageError(f"{shown} cannot be decoded: it is damaged or in an unsupported format "
                         f"({one_line(error)})") from None


def _decoded(data: bytes, max_pixels: int) -> Image:
    """``decode_image``; an ImageError of it does not name the file, which has no name here."""
    from PIL import Image as pillow

    chunks: dict[bytes, bytes] = {}
    if data.startswith(png_chunks.SIGNATURE):
        # Pillow would refuse an image because of errors in its metadata.
        data, chunks = png_chunks.split(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unused metadata; sizes are checked below
        with pillow.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "TIFF")) as opened:
            if opened.width * opened.height > max_pixels:
                raise ImageError(f"it has {opened.width}x{opened.height} pixels; at most "
                                 f"{max_pixels} are read")
            metadata, profile, orientation = from_file(opened, chunks, data)
            deep = sixteen_bit.read(opened, data)
            image = from_8_bits(opened, data, profile) if deep is None else Image(*deep, profile)
            if orientation is None:
                orientation = orientation_of(opened)
            return upright(_with_metadata(image, metadata), orientation)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file. Raises ImageError if it cannot be read or is empty."""
    shown = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(shown).st_mode):
            raise ImageError(f"{shown} is not a file")
        data = Path(shown).read_bytes()
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


def _with_metadata(image: Image, metadata: Metadata) -> Image:
    if not usable_profile(image.icc_profile, image.grey):
        reason = f"it is broken, or not for {'grey' if image.grey else 'RGB'} samples"
        return replace(image, icc_profile=None, metadata=replace(metadata, dropped=(
            *metadata.dropped, f"its colour profile is not kept: {reason}")))
    return replace(image, metadata=metadata)
