"""A decoded image, upright, with what has a place next to its pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .metadata import Metadata
from .resample import enlarge, to_unit

__all__ = ["EXTENSIONS", "Image", "to_8_bits", "to_array"]

EXTENSIONS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF",
              ".tiff": "TIFF"}


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded image, upright.

    pixels       (H, W, 3) RGB or (H, W, 1) grey, uint8 or uint16 using the type's whole range
    alpha        (H, W) of the same type, or None; colours are not premultiplied with it
    icc_profile  the colour profile that ``pixels`` refer to, or None for sRGB
    metadata     EXIF, XMP and resolution
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    metadata: Metadata = Metadata()

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def bits(self) -> int:
        return self.pixels.dtype.itemsize * 8

    @property
    def grey(self) -> bool:
        return self.pixels.shape[2] == 1

    def enlarged(self, sample: np.ndarray, scale: int) -> Image:
        """The image that a network's output stands for, in this one's form.

        ``sample``: float32 (3, H * scale, W * scale) in [0, 1]. All but pixels is kept. A grey
        image becomes the mean of the three channels: each estimates the same value with noise of
        its own, so the plain mean has the least of it. Alpha is enlarged by bicubic.
        """
        planes = sample.mean(axis=0, keepdims=True) if self.grey else sample
        alpha = self.alpha
        if alpha is not None:
            alpha = _quantise(enlarge(to_unit(alpha), scale), alpha.dtype)
        return replace(self, pixels=_quantise(planes.transpose(1, 2, 0), self.pixels.dtype),
                       alpha=alpha)


def to_array(image: Image) -> np.ndarray:
    """(H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha."""
    if image.alpha is not None:
        return np.concatenate([image.pixels, image.alpha[:, :, None]], axis=2)
    return np.ascontiguousarray(image.pixels[:, :, 0] if image.grey else image.pixels)


def to_8_bits(image: Image) -> Image:
    if image.bits == 8:
        return image

    def narrow(array: np.ndarray | None) -> np.ndarray | None:  # 65535 / 257 = 255
        return None if array is None else ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)

    return replace(image, pixels=narrow(image.pixels), alpha=narrow(image.alpha))


def _quantise(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    top = np.float32(np.iinfo(dtype).max)
    return np.rint(np.clip(values, np.float32(0), np.float32(1)) * top).astype(dtype)
