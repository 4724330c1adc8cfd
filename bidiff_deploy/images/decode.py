"""Pillow images with 8 bits a sample as ``Image``: modes, transparency, orientation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError
from .exif import ORIENTATION
from .image import Image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["from_8_bits", "orientation_of", "upright"]


def from_8_bits(opened: PillowImage, data: bytes, profile: bytes | None) -> Image:
    """8 bits a sample, as Pillow decodes it; ``data`` is the file's, where it is one."""
    opened.load()
    mode = opened.mode
    if mode in ("F", "I") or mode.startswith("I;"):
        raise ImageError(f"its samples (mode {mode}) are not 8 or 16 bit whole numbers; convert "
                         "it first")
    if mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
        profile = None  # it describes the colour space that is left here
        opened, mode = opened.convert("RGB"), "RGB"
    key = opened.info.get("transparency")
    if mode in ("1", "L", "LA", "La"):
        if isinstance(key, int) and mode in ("1", "L"):
            grey = np.asarray(opened.convert("L"))
            if mode == "1":
                key = 255 if key else 0  # by Pillow's version it is 1 or 255
            elif opened.format == "PNG" and len(data) > 24 and data[24] < 8:
                key *= 255 // ((1 << data[24]) - 1)  # Pillow scales the samples, but not the key
            return Image(grey[:, :, None], np.where(grey == key, 0, 255).astype(np.uint8), profile)
        if mode in ("LA", "La"):
            both = np.asarray(opened.convert("LA"))
            return Image(both[:, :, :1].copy(), both[:, :, 1].copy(), profile)
        return Image(np.array(opened.convert("L"))[:, :, None], None, profile)
    if mode in ("PA", "RGBA", "RGBa") or key is not None:
        colour = np.asarray(opened.convert("RGBA"))
        return Image(colour[:, :, :3].copy(), colour[:, :, 3].copy(), profile)
    return Image(np.array(opened.convert("RGB")), None, profile)


def orientation_of(opened: PillowImage) -> int:
    try:
        return opened.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to refuse a whole picture
        return 1


def upright(image: Image, orientation: int) -> Image:
    turns = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
             5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
             7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: np.rot90(a)}
    if orientation not in turns:
        return image
    turn = turns[orientation]
    alpha = None if image.alpha is None else np.ascontiguousarray(turn(image.alpha))
    return replace(image, pixels=np.ascontiguousarray(turn(image.pixels)), alpha=alpha)
