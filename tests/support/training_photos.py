"""Photos on disk as recipes name them, and crops of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bidiff_deploy.training.crops import Crops
from bidiff_deploy.training.decoded import DecodedPhotos
from bidiff_deploy.training.photos import find_sources
from bidiff_deploy.training.recipe import Data, Photo

PAIRS = Photo("DF2K/HR", low="DF2K/LR_bicubic/X2", template="{}x2")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_pairs(folder: Path) -> Path:
    """``folder``, with three pairs in the published layout for x2 and a folder of originals."""
    for index, size in enumerate([(40, 52), (36, 34), (60, 44)]):
        photo = picture(*size, seed=index)
        save(folder / "DF2K/HR" / f"{index:04d}.png", photo)
        # Not what imresize would make, so that it shows where they come from.
        save(folder / "DF2K/LR_bicubic/X2" / f"{index:04d}x2.png", photo[::2, ::2])
    save(folder / "photos/a.png", picture(41, 50, seed=7))
    save(folder / "photos/grey.jpg", picture(33, 34, seed=8)[..., 0])
    (folder / "photos/notes.txt").write_text("no photo")
    (folder / "photos/._a.png").write_text("what other systems leave behind")
    return folder


def crops_of(folder: Path, photos=(PAIRS,), *, scale: int = 2, seed: int = 0, memory: int = 1 << 30,
             cache: Path | None = None, **data) -> Crops:
    options = Data(train=tuple(photos), **{"crop": 16, **data})
    sources = find_sources(photos, folder, scale, options.crop)
    return Crops(DecodedPhotos([source.files for source in sources], memory, cache), options,
                 seed=seed, weights=[source.weight for source in sources])
