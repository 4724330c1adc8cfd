"""Numpy arrays and Pillow images <-> ``Image``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError
from .decode import from_8_bits, orientation_of, upright
from .image import Image, to_8_bits, to_array
from .metadata_read import from_pillow

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["from_array", "from_pil", "to_array", "to_pil"]


def from_array(array: np.ndarray) -> Image:
    """An Image from uint8 or uint16 (H, W), (H, W, 3) or, with alpha, (H, W, 4).

    Raises ImageError for another type or shape.
    """
    if array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise ImageError(f"an image array of type {array.dtype} is not supported; give uint8 or "
                         "uint16")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise ImageError(f"an image array of shape {array.shape} is not supported; give (height, "
                         "width), (height, width, 3) or (height, width, 4)")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 2:
        return Image(array[:, :, None])
    return Image(array[:, :, :3], array[:, :, 3] if array.shape[2] == 4 else None)


def from_pil(opened: PillowImage) -> Image:
    """An Image from a Pillow image. Raises ImageError for floats and 32-bit integers."""
    profile = opened.info.get("icc_profile") or None
    if opened.mode.startswith("I;16"):
        opened.load()
        wide = np.asarray(opened).astype(np.uint16)  # in native byte order
        image = Image(wide[:, :, None], None, profile)
    else:
        image = from_8_bits(opened, b"", profile)
    metadata = from_pillow(opened)
    metadata = replace(metadata, dropped=metadata.dropped + image.metadata.dropped)
    return upright(replace(image, metadata=metadata), orientation_of(opened))


def to_pil(image: Image) -> PillowImage:
    """A Pillow image of mode L, LA, RGB, RGBA, or I;16 for 16-bit grey.

    Pillow has no other 16-bit modes: all other 16-bit images are rounded to 8 bits.
    """
    from PIL import Image as pillow

    if image.bits == 16 and not (image.grey and image.alpha is None):
        image = to_8_bits(image)
    array = to_array(image)
    if array.ndim == 3 and array.shape[2] == 2:
        result = pillow.merge("LA", [pillow.fromarray(np.ascontiguousarray(array[:, :, i]))
                                     for i in range(2)])
    else:
        result = pillow.fromarray(array)
    if image.icc_profile:
        result.info["icc_profile"] = image.icc_profile
    exif = image.metadata.sized(image.width, image.height).exif
    if exif:
        result.info["exif"] = b"Exif\0\0" + exif
    return result
