"""A small data set on disk, and its photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZES = {"baby": (32, 40), "bird": (36, 24), "woman": (48, 33)}  # the last is not a multiple of 2


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * (0.2 + 0.1 * c) + seed) + np.cos(y * (0.3 + 0.05 * c)) for c in range(3)]
    edges = ((x // 5 + y // 7) % 2)[..., None] * 60
    return (90 + 40 * np.stack(waves, -1) + edges).clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def low_of(photo: np.ndarray) -> np.ndarray:
    """Differs from imresize, which shows that these files were used."""
    return photo[:photo.shape[0] // 2 * 2:2, :photo.shape[1] // 2 * 2:2]


@pytest.fixture
def set5(tmp_path: Path) -> Path:
    """As the authors lay it out, for x2."""
    for seed, (name, size) in enumerate(SIZES.items()):
        photo = save(tmp_path / f"Set5/HR/{name}.png", picture(*size, seed))
        pixels = np.asarray(Image.open(photo))
        save(tmp_path / f"Set5/LR_bicubic/X2/{name}x2.png", low_of(pixels))
    return tmp_path / "Set5"
