"""Low-resolution images as people have them: other kernels, JPEG, noise.

A photo's crop, with the pixels around it, is reduced by one kernel, gets noise, is rounded to 8
bits and perhaps saved as JPEG, drawn again for every crop:

    bicubic   Matlab's imresize, as everywhere else here
    area      the mean of scale x scale pixels
    lanczos   Pillow's, three lobes
    blur      Gaussian blur of 0.4 to 0.8 output pixels a factor of scale, then area, always with
              noise, which tells it from what is out of focus in a clean photo
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ..images.matlab_bicubic import make_low
from .recipe_parts import Degrade

__all__ = ["MARGIN", "degraded"]

MARGIN = 16  # low-resolution pixels around a crop: two blocks of a JPEG with halved chroma
_BLUR = 0.4, 0.8  # standard deviation over the scale
_LEAST_WITH_BLUR = 0.5  # of the highest level of noise

Pixels = npt.NDArray[np.uint8]


def degraded(window: Pixels, scale: int, options: Degrade, random: np.random.Generator) -> Pixels:
    """The low-resolution image of ``window``, uint8 (H, W, 3) with sides that are multiples of
    ``scale``; JPEG's blocks begin at its corner."""
    shares = np.cumsum([kernel.share for kernel in options.kernels])
    drawn = int(np.searchsorted(shares, random.random() * shares[-1], side="right"))
    name = options.kernels[drawn].name
    low = _reduced(window, scale, name, random)
    if random.random() < options.noisy or name == "blur":
        level = random.uniform(_LEAST_WITH_BLUR if name == "blur" else 0, 1) * options.noise
        noise = random.normal(0, level, low.shape[:2] + (3 if random.random() < 0.5 else 1,))
        low = np.rint((low + noise).clip(0, 255)).astype(np.uint8)
    if random.random() < options.jpeg:
        low = _jpeg(low, int(random.integers(options.quality[0], options.quality[1] + 1)),
                    "4:2:0" if random.random() < 0.5 else "4:4:4")
    return low


def _reduced(window: Pixels, scale: int, kernel: str, random: np.random.Generator) -> Pixels:
    if kernel == "bicubic":
        return make_low(window, scale)
    image = Image.fromarray(window)
    if kernel == "lanczos":
        size = window.shape[1] // scale, window.shape[0] // scale
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    if kernel == "blur":
        image = image.filter(ImageFilter.GaussianBlur(float(random.uniform(*_BLUR)) * scale))
    return np.asarray(image.reduce(scale))


def _jpeg(pixels: Pixels, quality: int, subsampling: str) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
