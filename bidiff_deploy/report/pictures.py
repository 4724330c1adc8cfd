"""Pictures for a page: which files, and which parts of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..images.image import READ_EXTENSIONS
from ..pages.pictures import Encoded, Part, busiest, encode, part_of
from ..proof.inputs import image_files, read_rgb

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

DETAIL = 96  # pixels a side of the detail, shown three times as large


@dataclass(frozen=True)
class Input:
    """What is upscaled: ``low``, the file of a small image, or None to make it from ``truth``, the
    file of the original."""

    name: str
    low: Path | None
    truth: Path | None

    def read(self, scale: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The small image and the original or None, uint8 (H, W, 3). Raises ImageError, and
        UsageError where the two do not fit."""
        truth = None if self.truth is None else _rgb(self.truth)
        if self.low is not None:
            low = _rgb(self.low)
            if truth is not None and truth.shape[:2] != tuple(scale * n for n in low.shape[:2]):
                raise UsageError(f"{self.truth} is not {scale} times as large as {self.low}, so "
                                 "it is no ground truth of it")
            return low, truth
        assert truth is not None
        height, width = (n // scale * scale for n in truth.shape[:2])
        if not height or not width:
            raise UsageError(f"{self.truth} is too small to be made {scale} times smaller")
        truth = truth[:height, :width]
        return resized(truth, width // scale, height // scale), truth


def find_inputs(images: Sequence[str], truths: Sequence[str]) -> list[Input]:
    """The inputs that files and folders stand for, as ``bidiff-deploy check`` pairs them.

    Truths belong to the images whose names begin alike (``baby_small.png`` to ``baby.png``);
    without images they are inputs themselves. Raises UsageError for folders without images.
    """
    originals = {path.stem: path for path in image_files(truths)}
    if not images:
        return [Input(path.name, None, path) for path in originals.values()]
    found = []
    for path in image_files(images):
        fitting = [stem for stem in originals if path.stem.startswith(stem)]
        if truths and not fitting:
            raise UsageError(f"no file of --truth belongs to {path}: name it as the image begins")
        found.append(Input(path.name, path,
                           originals[max(fitting, key=len)] if fitting else None))
    return found


def is_image(name: str) -> bool:
    """Whether an argument is an image or a folder of them, by its name; else a checkpoint."""
    return os.path.isdir(name) or Path(name).suffix.lower() in READ_EXTENSIONS


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """By Pillow's bicubic, which antialiases where it makes smaller."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def detail(pixels: np.ndarray) -> tuple[int, int, int]:
    """(top, left, side) of the square with the most edges, which is what a comparison should show.
    """
    side = min(DETAIL, *pixels.shape[:2])
    return *busiest(pixels, side, side), side


def encoded(pictures: dict[str, np.ndarray], budget: int) -> Encoded | None:
    """uint8 (H, W, 3) each, of one size, as ``pages.pictures.encode`` has them; a part is chosen by
    the last of them."""
    from PIL import Image

    last = list(pictures.values())[-1]

    def cut(most: int) -> tuple[Part, dict[str, PillowImage]]:
        left, top, width, height = part = part_of(last, most)
        return part, {name: Image.fromarray(np.ascontiguousarray(
            pixels[top:top + height, left:left + width])) for name, pixels in pictures.items()}

    return encode(cut, budget)


def _rgb(path: Path) -> np.ndarray:
    pixels = read_rgb(path)
    if pixels.dtype != np.uint8:
        pixels = (pixels // 257).astype(np.uint8)
    return np.ascontiguousarray(pixels)
