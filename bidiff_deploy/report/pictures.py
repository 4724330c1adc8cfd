"""Pictures for a page: which files, what is compared, and as how many bytes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..images.image import READ_EXTENSIONS
from ..proof.inputs import image_files, read_rgb

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

LONGEST_SIDE = 1600
# Smaller images are shown without loss, if there is room.
_SMALLER = (1600, 1200, 900, 640)
_QUALITIES = (92, 82)
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
    """(top, left, side) of the square with the most edges, which is what a comparison should show:
    gradients count as far as they agree in direction with those around them."""
    side = min(DETAIL, *pixels.shape[:2])
    if side < 24:
        return 0, 0, side
    dy, dx = np.gradient(pixels.astype(np.float32).mean(-1))
    xx, yy, xy = (_box(product, 9) for product in (dx * dx, dy * dy, dx * dy))
    sums = _box(np.hypot(xx - yy, 2 * xy), side - 8)
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left), side


def _box(values: np.ndarray, size: int) -> np.ndarray:
    """Sums over all squares of ``size``."""
    total: np.ndarray = np.pad(values.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    inner: np.ndarray = (total[size:, size:] - total[:-size, size:] - total[size:, :-size]
                         + total[:-size, :-size])
    return inner


@dataclass(frozen=True)
class Encoded:
    """Pictures of one size as data URIs by name, and how: ``lossless`` or ``quality 92``."""

    uris: dict[str, str]
    width: int
    height: int
    how: str


def encode(pictures: dict[str, np.ndarray], budget: int) -> Encoded | None:
    """uint8 (H, W, 3) each, of one size, in at most ``budget`` bytes together: without loss if
    that fits, else with it, else smaller; None where nothing does."""
    from PIL import Image

    opened = {name: Image.fromarray(pixels) for name, pixels in pictures.items()}
    width, height = next(iter(opened.values())).size
    for longest in _SMALLER:
        share = min(1.0, longest / max(width, height))
        size = max(1, round(width * share)), max(1, round(height * share))
        small = {name: picture if share == 1 else picture.resize(size, Image.Resampling.LANCZOS)
                 for name, picture in opened.items()}
        # A photo takes more than a byte a pixel without loss; trying takes seconds.
        tried = [None, *_QUALITIES] if size[0] * size[1] * len(small) < budget else [*_QUALITIES]
        for quality in tried:
            data = {name: _file(picture, quality) for name, picture in small.items()}
            if sum(len(uri) for uri in data.values()) <= budget:
                how = "without loss" if quality is None else f"with loss, quality {quality}"
                return Encoded(data, *size, how)
    return None


def _file(picture: PillowImage, quality: int | None) -> str:
    """A data URI; ``quality`` None: without loss."""
    from PIL import features

    options: dict[str, Any]
    if features.check("webp"):
        kind, options = "webp", {"lossless": True} if quality is None else {"quality": quality}
    elif quality is None:
        kind, options = "png", {"optimize": True}
    else:
        kind, options = "jpeg", {"quality": quality, "subsampling": 0}
    stream = io.BytesIO()
    picture.save(stream, kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _rgb(path: Path) -> np.ndarray:
    pixels = read_rgb(path)
    if pixels.dtype != np.uint8:
        pixels = (pixels // 257).astype(np.uint8)
    return np.ascontiguousarray(pixels)
