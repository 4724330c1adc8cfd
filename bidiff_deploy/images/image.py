"""``Image``: the pixels of a decoded, upright image with their alpha, profile and metadata."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .metadata import Metadata
from .resample import enlarge, to_unit

__all__ = ["EXTENSIONS", "Image", "READ_EXTENSIONS", "is_opaque", "quantise", "to_8_bits",
           "to_array"]

EXTENSIONS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG",
              ".jif": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
READ_EXTENSIONS = (*EXTENSIONS, ".bmp", ".dib", ".gif")


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded image, upright.

    pixels       (H, W, 3) RGB or (H, W, 1) grey, uint8 or uint16 using the type's whole range
    alpha        (H, W) of the same type, or None; colours are not premultiplied
    icc_profile  the colour profile of ``pixels``, or None for sRGB
    metadata     EXIF, XMP, texts and resolution
    lossless     whether it comes from a WebP without losses
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    metadata: Metadata = Metadata()
    lossless: bool = False

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def bits(self) -> int:
        return self.pixels.dtype.itemsize * 8

    @property
    def grey(self) -> bool:
        return bool(self.pixels.shape[2] == 1)

    def enlarged(self, sample: np.ndarray, scale: int) -> Image:
        """A network's output as an image of this one's depth and channels.

        ``sample``: float32 (3, H * scale, W * scale) in [0, 1]. Profile and metadata are kept,
        positions in pixels scaled. A
        grey image becomes the mean of the three channels: they estimate the same value with
        independent noise, which the mean reduces most. Alpha is enlarged by bicubic.
        """
        planes = sample.mean(axis=0, keepdims=True) if self.grey else sample
        alpha = self.alpha
        if alpha is not None:
            alpha = quantise(enlarge(to_unit(alpha), scale), alpha.dtype)
        return replace(self, pixels=quantise(planes.transpose(1, 2, 0), self.pixels.dtype),
                       alpha=alpha, metadata=self.metadata.scaled(scale))


def is_opaque(image: Image) -> bool:
    """Whether no pixel is transparent, with or without alpha."""
    return image.alpha is None or bool(image.alpha.min() == np.iinfo(image.alpha.dtype).max)


def to_array(image: Image) -> np.ndarray:
    """The samples of an image: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4)
    RGB and alpha."""
    if image.alpha is not None:
        return np.concatenate([image.pixels, image.alpha[:, :, None]], axis=2)
    return np.ascontiguousarray(image.pixels[:, :, 0] if image.grey else image.pixels)


def to_8_bits(image: Image) -> Image:
    """The image rounded to 8 bits; itself if it has 8 already."""
    if image.bits == 8:
        return image

    def narrow(array: np.ndarray) -> np.ndarray:  # 65535 / 257 = 255
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)

    return replace(image, pixels=narrow(image.pixels),
                   alpha=None if image.alpha is None else narrow(image.alpha))


def quantise(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """float32 values of [0, 1], clipped to it, as uint8 or uint16."""
    top = np.float32(np.iinfo(dtype).max)
    scaled: np.ndarray = np.rint(np.clip(values, np.float32(0), np.float32(1)) * top)
    return scaled.astype(dtype)
