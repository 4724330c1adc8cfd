"""An image as a browser shows it: 8 bits, sRGB, transparency as a checkerboard."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..images.hidden_colours import without_hidden_colours
from ..images.image import Image, to_8_bits

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["cut", "on_checkerboard", "to_srgb"]

_SQUARE = 16  # pixels a side of the checkerboard's squares, as shown
_SHADES = 178, 230


def cut(image: Image, left: int, top: int, width: int, height: int) -> Image:
    """A part of an image."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    alpha = None if image.alpha is None else image.alpha[rows, columns]
    return replace(image, pixels=image.pixels[rows, columns], alpha=alpha)


def to_srgb(image: Image) -> tuple[PillowImage, PillowImage | None, str | None]:
    """The colours of an image in 8-bit sRGB (mode RGB), its alpha (mode L) or None, and what was
    converted for it, in a few words, or None."""
    from PIL import Image as pillow

    notes = [] if image.bits == 8 else [f"{image.bits} bits as 8"]
    if image.alpha is not None:
        notes.append("transparency as a checkerboard")
    small = without_hidden_colours(to_8_bits(image))
    channels = small.pixels[:, :, 0] if small.grey else small.pixels
    colours = pillow.fromarray(np.ascontiguousarray(channels))
    if image.icc_profile:
        converted = _converted(colours, image.icc_profile)
        notes.append("colours as sRGB" if converted else "colours without their profile, which "
                                                         "cannot be applied")
        colours = converted or colours
    alpha = None if small.alpha is None else pillow.fromarray(np.ascontiguousarray(small.alpha))
    return colours.convert("RGB"), alpha, ", ".join(notes) or None


def _converted(colours: PillowImage, profile: bytes) -> PillowImage | None:
    try:
        from PIL import ImageCms

        return ImageCms.profileToProfile(
            colours, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"),
            outputMode="RGB")
    except Exception:  # lcms is missing, or refuses the profile
        return None


def on_checkerboard(colours: PillowImage, alpha: PillowImage | None,
                    factor: float = 1.0) -> PillowImage:
    """The colours over a checkerboard, whose squares count from the left and the top. ``factor``:
    how many times larger the picture is shown."""
    if alpha is None:
        return colours
    from PIL import Image as pillow

    rows, columns = ((np.arange(side) * factor).astype(int) // _SQUARE % 2
                     for side in (colours.height, colours.width))
    board = np.where(rows[:, None] != columns, *_SHADES).astype(np.uint8)
    return pillow.composite(colours, pillow.fromarray(board).convert("RGB"), alpha)
