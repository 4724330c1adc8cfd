"""Photos -> pairs of high-resolution crop and upsampled low-resolution condition.

Low-resolution images are made by Pillow's BICUBIC (a = -0.5, antialiased, as MATLAB's imresize
does it) in 8 bits. The condition of such an image is what the runtime computes.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..resample import to_condition
from .recipe import Data, Photo

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Pair:
    """A photo (uint8) and its condition (float32), both (3, H, W), H and W multiples of scale."""

    name: str
    photo: Tensor
    condition: Tensor
    weight: float = 1.0


def make_pair(photo: np.ndarray, scale: int, name: str = "", weight: float = 1.0) -> Pair:
    """uint8 (H, W, 3) -> its Pair; rows and columns beyond a multiple of ``scale`` are cut off."""
    from PIL import Image

    height, width = (side // scale * scale for side in photo.shape[:2])
    photo = np.array(photo[:height, :width])
    low = Image.fromarray(photo).resize((width // scale, height // scale),
                                        Image.Resampling.BICUBIC)
    return Pair(name, torch.from_numpy(photo).permute(2, 0, 1).contiguous(),
                torch.from_numpy(to_condition(np.array(low), scale)), weight)


def load_pairs(photos: Sequence[Photo], folder: Path, scale: int, smallest: int = 1) -> list[Pair]:
    """Pairs of every photo; paths relative to ``folder``, grey photos become RGB.

    Raises UsageError for a path that does not exist, a folder without photos, a file that is no
    image, a box outside its photo, and a photo with a side below ``smallest`` pixels.
    """
    pairs = []
    for photo in photos:
        path = _resolve(photo.path, folder)
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not files:
                raise UsageError(f"{path}: has no photos ({', '.join(SUFFIXES)}); name a folder "
                                 "that has")
        for file in files:
            image = _boxed(_read(file), photo, file)
            if min(side // scale * scale for side in image.shape[:2]) < max(smallest, scale):
                raise UsageError(f"{file}: {image.shape[0]}x{image.shape[1]} pixels are less than "
                                 f"a crop of {smallest}; use a larger photo or a smaller crop")
            pairs.append(make_pair(image, scale, file.name, photo.weight))
    return pairs


class Crops:
    """Endless random crops of pairs: aligned to the scale, flipped, rotated, colours permuted."""

    def __init__(self, pairs: Sequence[Pair], data: Data, scale: int) -> None:
        self.pairs = pairs
        self.data = data
        self.scale = scale
        self.weights = torch.tensor([pair.weight for pair in pairs])

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Photos and conditions, float32 (batch, 3, crop, crop) each, photos in [0, 1]."""
        drawn = [self._best(generator) for _ in range(batch)]
        return (torch.stack([photo for photo, _ in drawn]),
                torch.stack([condition for _, condition in drawn]))

    def _best(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        crops = [self._crop(generator) for _ in range(self.data.candidates)]
        return max(crops, key=lambda crop: float((crop[0] - crop[1]).square().sum()))

    def _crop(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def integer(below: int) -> int:
            return int(torch.randint(below, (), generator=generator))

        pair = self.pairs[int(torch.multinomial(self.weights, 1, generator=generator))]
        size = self.data.crop
        # Aligned to the low-resolution grid, as every input of the runtime is.
        top, left = (integer((side - size) // self.scale + 1) * self.scale
                     for side in pair.photo.shape[1:])
        photo, condition = (image[:, top:top + size, left:left + size]
                            for image in (pair.photo, pair.condition))
        turns, flip = integer(4), integer(2)
        colors = torch.arange(3)
        if self.data.shuffle_colors:
            colors = torch.randperm(3, generator=generator)

        def augment(image: Tensor) -> Tensor:
            image = torch.rot90(image[colors], turns, (1, 2))
            return image.flip(2) if flip else image

        return augment(photo).float().div(255), augment(condition)


def _resolve(path: str, folder: Path) -> Path:
    found = folder / path
    if not found.exists() and not Path(path).is_absolute():
        package, _, rest = path.partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is not None and spec.submodule_search_locations:
            found = Path(next(iter(spec.submodule_search_locations))) / rest
    if not found.exists():
        raise UsageError(f"{path}: no such photo or folder, neither beside the recipe nor in an "
                         "installed package; correct the path or install the package")
    return found


def _read(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UsageError(f"{path}: is no image that can be read; remove it or name another "
                         "photo") from None


def _boxed(image: np.ndarray, photo: Photo, file: Path) -> np.ndarray:
    if not photo.box:
        return image
    top, left, height, width = photo.box
    if top + height > image.shape[0] or left + width > image.shape[1]:
        raise UsageError(f"{file}: box {list(photo.box)} does not lie inside its "
                         f"{image.shape[0]}x{image.shape[1]} pixels; correct it")
    return image[top:top + height, left:left + width]
