"""Image files in: PNG, JPEG, WebP and TIFF, 8 and 16 bit, grey, alpha and palette.

Pillow decodes (it is imported when first needed). It has no 16-bit colour, so ``sixteen_bit`` gets
the second byte of each sample out of it; that spares a second image library, whose wheels would be
many times this package.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import replace
from pathlib import Path

from ..errors import ImageError
from . import png_chunks, sixteen_bit
from .decode import from_8_bits, orientation_of, upright
from .image import Image
from .metadata import Metadata, from_file, usable_profile

__all__ = ["MAX_PIXELS", "decode_image", "read_bytes", "read_image"]

# Refused beyond this, so that a small file cannot claim all memory. Pillow has a limit as well
# (PIL.Image.MAX_IMAGE_PIXELS; it refuses beyond twice that), which holds for files too.
MAX_PIXELS = 1 << 27


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a PNG, JPEG, WebP or TIFF file, known by its content and not by its name.

    EXIF orientation is applied, palettes are expanded, a transparent colour becomes alpha, other
    colour spaces (CMYK, Lab) are converted to RGB, and of several frames the first is taken.
    16-bit grey and RGB keep their 16 bits. Metadata that is broken is left out, and told by
    ``metadata.dropped``. Raises ImageError for a file that is missing, empty, damaged, no such
    image, of float samples, or larger than ``max_pixels``.
    """
    return decode_image(read_bytes(path), path, max_pixels)


def decode_image(data: bytes, path: str | os.PathLike[str],
                 max_pixels: int = MAX_PIXELS) -> Image:
    """``read_image`` of a file's bytes; ``path`` is what errors call it."""
    shown = os.fspath(path)
    from PIL import Image as pillow
    from PIL import UnidentifiedImageError

    chunks: dict[bytes, bytes] = {}
    if data.startswith(png_chunks.SIGNATURE):
        # Pillow would refuse the picture for what is wrong with its metadata.
        data, chunks = png_chunks.split(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that is not used; limits are checked below
        try:
            with pillow.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "TIFF")) as opened:
                if opened.width * opened.height > max_pixels:
                    raise ImageError(f"{shown} has {opened.width}x{opened.height} pixels; at most "
                                     f"{max_pixels} are read")
                metadata, profile, orientation = from_file(opened, chunks, data)
                deep = sixteen_bit.read(opened, data)
                image = from_8_bits(opened, data, profile) if deep is None else Image(*deep, profile)
                if orientation is None:
                    orientation = orientation_of(opened)
                return upright(_with_metadata(image, metadata), orientation)
        except ImageError as error:
            raise error if shown in str(error) else ImageError(f"{shown}: {error}") from None
        except UnidentifiedImageError:
            raise ImageError(f"{shown} is not a PNG, JPEG, WebP or TIFF image, or is damaged") \
                from None
        except pillow.DecompressionBombError as error:
            raise ImageError(f"{shown} is too large: {error}") from None
        except MemoryError:
            raise ImageError(f"there is not enough memory to read {shown}") from None
        except Exception as error:  # decoders raise of every kind on damaged data
            raise ImageError(f"{shown} can not be decoded, it is damaged or of an unsupported "
                             f"kind ({str(error) or type(error).__name__})") from None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file that is not empty; ImageError in a sentence."""
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
        raise ImageError(f"{shown!r} can not be read: {reason}") from None
    if not data:
        raise ImageError(f"{shown} is empty (0 bytes), so it is no image")
    return data


def _with_metadata(image: Image, metadata: Metadata) -> Image:
    if not usable_profile(image.icc_profile, image.grey):
        reason = f"it is broken, or not of {'grey' if image.grey else 'RGB'} samples"
        return replace(image, icc_profile=None, metadata=replace(metadata, dropped=(
            *metadata.dropped, f"its colour profile is not kept: {reason}")))
    return replace(image, metadata=metadata)
