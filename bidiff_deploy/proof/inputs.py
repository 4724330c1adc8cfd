"""The images that checks run on: low-resolution files, or noise if none are given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..images.image import READ_EXTENSIONS
from ..images.read import read_image
from ..images.resample import to_condition


@dataclass(frozen=True, eq=False)
class Sample:
    """One input: its name, the condition, float32 (1, 3, H, W), and the ground truth, float32
    (H, W, 3) in [0, 1], or None."""

    name: str
    condition: np.ndarray
    truth: np.ndarray | None = None


def noise_sample(scale: int, size: tuple[int, int], seed: int = 0) -> Sample:
    """The condition of an image of uniform noise; ``size`` is (height, width) of the output."""
    height, width = size
    pixels = np.random.default_rng(seed).random(
        (-(-height // scale), -(-width // scale), 3), np.float32)
    return Sample("noise", to_condition(pixels, scale)[None, :, :height, :width].copy())


def image_samples(scale: int, images: Sequence[str], truths: Sequence[str],
                  limit: tuple[int, int]) -> list[Sample]:
    """Samples of image files or folders; outputs are at most ``limit`` (height, width).

    Larger images are cropped to their centre. ``truths``, the originals, belong to the images whose
    names begin with theirs (``baby_small.png`` to ``baby.png``); without ``images`` they are
    downscaled by Pillow's antialiased bicubic. Raises ImageError, and UsageError for folders
    without images and truths that do not fit.
    """
    originals = {path.stem: path for path in image_files(truths)}
    files = image_files(images)
    if not images:
        return [_from_truth(path, scale, limit) for path in originals.values()]
    samples = []
    for path in files:
        small = read_rgb(path)
        fitting = [stem for stem in originals if path.stem.startswith(stem)]
        truth = None
        if truths:
            if not fitting:
                raise UsageError(f"no file of --truth belongs to {path}; its name must be the "
                                 "beginning of the image's name")
            truth = read_rgb(originals[max(fitting, key=len)])
            if truth.shape[:2] != tuple(scale * n for n in small.shape[:2]):
                raise UsageError(f"{originals[max(fitting, key=len)]} is not {scale} times as "
                                 f"large as {path}, so it is not its ground truth; give the "
                                 "original")
        samples.append(_sample(path.name, small, truth, scale, limit))
    return samples


def _from_truth(path: Path, scale: int, limit: tuple[int, int]) -> Sample:
    from PIL import Image

    truth = read_rgb(path)
    height, width = (n // scale * scale for n in truth.shape[:2])
    truth = truth[:height, :width]
    if truth.dtype != np.uint8:
        truth = (truth // 257).astype(np.uint8)
    small = Image.fromarray(truth).resize((width // scale, height // scale),
                                          Image.Resampling.BICUBIC)
    return _sample(path.name, np.asarray(small), truth, scale, limit)


def _sample(name: str, small: np.ndarray, truth: np.ndarray | None, scale: int,
            limit: tuple[int, int]) -> Sample:
    window = []
    for have, largest in zip(small.shape, limit):
        take = min(have, max(1, largest // scale))
        window.append(((have - take) // 2, take))
    (top, height), (left, width) = window
    cut = small[top:top + height, left:left + width]
    if truth is not None:
        truth = truth[scale * top:scale * (top + height), scale * left:scale * (left + width)]
        truth = truth.astype(np.float32) / np.float32(np.iinfo(truth.dtype).max)
    return Sample(name, to_condition(cut, scale)[None], truth)


def read_rgb(path: Path) -> np.ndarray:
    """uint8 or uint16 (H, W, 3), grey repeated three times, without alpha. Raises ImageError."""
    pixels = read_image(path).pixels
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def image_files(names: Sequence[str]) -> list[Path]:
    """Files, and the images directly in folders, sorted. Raises UsageError for a folder without
    images."""
    found = []
    for name in names:
        if os.path.isdir(name):
            inside = sorted(path for path in Path(name).iterdir()
                            if path.suffix.lower() in READ_EXTENSIONS and path.name[0] != ".")
            if not inside:
                raise UsageError(f"folder {name} has no images (none of "
                                 f"{', '.join(READ_EXTENSIONS)})")
            found += inside
        else:
            found.append(Path(name))
    return found
