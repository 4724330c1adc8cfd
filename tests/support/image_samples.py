"""Pictures of every number of channels that tests of images share, and a colour profile."""

from __future__ import annotations

import functools

import numpy as np
from PIL import ImageCms

from bidiff_deploy.images.convert import to_array
from bidiff_deploy.images.image import Image

HEIGHT, WIDTH = 21, 34
CHANNELS = {"grey": 1, "grey and alpha": 2, "RGB": 3, "RGBA": 4}


def samples(channels: int, dtype=np.uint16, seed: int = 0) -> np.ndarray:
    """Steep ramps with noise in every bit, so that filters and predictors have work."""
    rng = np.random.default_rng(seed)
    ramps = np.cumsum(rng.integers(0, 5000, (HEIGHT, WIDTH, channels)), axis=1)
    return ramps.astype(np.uint16).astype(dtype)


def joined(image: Image) -> np.ndarray:
    array = to_array(image)
    return array[:, :, None] if array.ndim == 2 else array


@functools.cache  # it contains the time at which it was made
def profile(grey: bool = False) -> bytes:
    """An ICC profile of sRGB; of grey, only its header says so."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[16:20] = b"GRAY" if grey else b"RGB "
    return bytes(data)


def make(channels: int, dtype, profile: bytes | None = None) -> Image:
    array = samples(channels, dtype)
    alpha = array[:, :, -1] if channels in (2, 4) else None
    return Image(array[:, :, :1 if channels < 3 else 3], alpha, profile)
