"""8-bit Pillow images -> ``Image``: modes, colour spaces, transparency, orientation."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError
from .exif import ORIENTATION
from .image import Image
from .metadata import Metadata

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["from_8_bits", "orientation_of", "to_rgb", "upright"]


def from_8_bits(opened: PillowImage, data: bytes, profile: bytes | None) -> Image:
    """A Pillow image as an Image of 8 bits; ``data``: its file, or b"" if it has none.

    ``metadata.dropped`` of the result says where the conversion of colours is approximate.
    """
    tiles = getattr(opened, "tile", None) if opened.format == "GIF" else None
    box = tiles[0][1] if tiles else None
    opened.load()
    if box not in (None, (0, 0, *opened.size)):
        return _part_of_canvas(opened, box, profile)
    mode = opened.mode
    tags = getattr(opened, "tag_v2", {})  # of a TIFF
    if mode in ("1", "L", "LA") and 2 in tags.get(_SAMPLE_FORMAT, ()):
        raise ImageError("its samples are signed numbers; convert it first")
    colours = tags.get(_COLOUR_MAP, ())
    if mode == "P" and colours and max(colours) < 256:
        # Some programs store 8 bits a colour instead of 16; Pillow takes the high byte of each.
        opened.putpalette(np.asarray(colours, np.uint8).reshape(3, -1).T.tobytes())
    if mode in ("F", "I") or mode.startswith("I;"):
        raise ImageError(f"its samples (mode {mode}) are not whole numbers of 8 or 16 bits; "
                         "convert it first")
    if mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"):
        rgb, profile, notes = to_rgb(opened, profile)
        return Image(np.array(rgb), None, profile, Metadata(dropped=notes))
    key = opened.info.get("transparency")
    if mode in ("1", "L", "LA", "La"):
        if isinstance(key, int) and mode in ("1", "L"):
            grey = np.asarray(opened.convert("L"))
            if mode == "1":
                key = 255 if key else 0  # 1 or 255, depending on Pillow's version
            elif opened.format == "PNG" and len(data) > 24 and data[24] < 8:
                key *= 255 // ((1 << data[24]) - 1)  # Pillow scales the samples, not the key
            return Image(grey[:, :, None], np.where(grey == key, 0, 255).astype(np.uint8), profile)
        if mode in ("LA", "La"):
            both = np.asarray(opened.convert("LA"))
            return Image(both[:, :, :1].copy(), both[:, :, 1].copy(), profile)
        return Image(np.array(opened.convert("L"))[:, :, None], None, profile)
    if mode in ("PA", "RGBA", "RGBa") or key is not None:
        colour = np.asarray(opened.convert("RGBA"))
        if opened.format == "BMP" and not colour[:, :, 3].any():  # unused: programs show such files
            return Image(colour[:, :, :3].copy(), None, profile)
        return Image(colour[:, :, :3].copy(), colour[:, :, 3].copy(), profile)
    return Image(np.array(opened.convert("RGB")), None, profile)


def _part_of_canvas(opened: PillowImage, box: tuple[int, int, int, int],
                    profile: bytes | None) -> Image:
    """A GIF whose first frame covers only a part: the rest is transparent, not the background's
    colour that Pillow returns."""
    colour = np.array(opened.convert("RGBA"))
    inside = np.zeros(colour.shape[:2], bool)
    inside[box[1]:box[3], box[0]:box[2]] = True
    colour[~inside] = 0
    return Image(colour[:, :, :3].copy(), colour[:, :, 3].copy(), profile)


def to_rgb(opened: PillowImage,
           profile: bytes | None) -> tuple[PillowImage, bytes | None, tuple[str, ...]]:
    """An image of another colour space in RGB, the profile of the result, and what is approximate.

    CMYK is converted to sRGB by its profile.
    """
    if opened.mode == "YCbCr":
        return opened.convert("RGB"), profile, ()  # whose profile is for RGB
    if opened.mode != "CMYK":
        return opened.convert("RGB"), None, () if profile is None else (
            f"its colour profile is not kept: the image is converted from {opened.mode} to sRGB",)
    reason = "it has no colour profile"
    if profile is not None:
        try:
            from PIL import ImageCms

            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(opened, source, ImageCms.createProfile("sRGB"),
                                                  outputMode="RGB")
            assert converted is not None
            return converted, None, ()
        except Exception:  # lcms is missing, or refuses the profile
            reason = "its colour profile is broken or not for CMYK"
    return opened.convert("RGB"), None, (
        f"its colours are approximate: it is CMYK and {reason}; convert it to sRGB first",)


def orientation_of(opened: PillowImage) -> int:
    """EXIF's orientation; 1 (upright) if there is none or the metadata is damaged."""
    try:
        return int(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata is no reason to refuse an image
        return 1


_COLOUR_MAP, _SAMPLE_FORMAT = 320, 339

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: np.rot90(a)}


def upright(image: Image, orientation: int) -> Image:
    """The image turned and mirrored as EXIF's ``orientation``, from 1 to 8, asks for."""
    turn = _TURNS.get(orientation)
    if turn is None:
        return image
    alpha = None if image.alpha is None else np.ascontiguousarray(turn(image.alpha))
    return replace(image, pixels=np.ascontiguousarray(turn(image.pixels)), alpha=alpha)
