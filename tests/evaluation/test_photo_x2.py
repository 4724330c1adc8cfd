"""The installed feed-forward models: small, better than bicubic on photos they never saw, and exact
on flat colours."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy import load
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines.image_engine import ImageEngine
from bidiff_deploy.images.matlab_bicubic import make_low
from bidiff_deploy.images.metrics import psnr_y
from bidiff_deploy.training.recipe import read_recipe
from support.shipped import MODELS, TRAINING, gains

pytest.importorskip("onnxruntime")
NAMES = ("photo_x2", "photo_jpeg_x2")


@pytest.fixture(scope="module")
def engines():
    opened = {name: load(name.replace("_", "-"), threads=1) for name in NAMES}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_they_are_small_and_of_their_recipes(name):
    pytest.importorskip("torch")
    file = MODELS / f"{name}.safetensors"
    found, recipe = read_checkpoint(file), read_recipe(TRAINING / f"{name}.yaml")
    assert file.stat().st_size < 1e6
    assert (found.config, found.scale) == (recipe.network, recipe.scale)


# Measured: +1.33 dB and +0.025; +0.55 dB and +0.044.
@pytest.mark.parametrize("photo, decibels, similarity", [
    ("chelsea.png", 1.0, 0.02), ("china.jpg", 0.35, 0.035)])
def test_photos_it_never_saw(engines, photo, decibels, similarity):
    psnr, ssim, shift = gains(engines["photo_x2"], photo)
    assert psnr >= decibels and ssim >= similarity and shift < 0.5


# Measured: +0.11 and +0.22 dB (the model for clean photos: -0.16 and +0.15 dB).
@pytest.mark.parametrize("photo, decibels", [("chelsea.png", 0.05), ("china.jpg", 0.1)])
def test_jpegs_of_photos_it_never_saw(engines, photo, decibels):
    """Of quality 85 with halved chroma, against Lanczos and the model for clean photos."""
    with Image.open(TRAINING / "photos" / photo) as image:
        whole = np.asarray(image.convert("RGB"))
    height, width = (side // 2 * 2 for side in whole.shape[:2])
    truth = whole[:height, :width]
    file = io.BytesIO()
    Image.fromarray(make_low(truth, 2)).save(file, "JPEG", quality=85, subsampling="4:2:0")
    small = Image.open(file)
    lanczos = np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))
    clean, ours = (psnr_y(engines[name].upscale(np.asarray(small)), truth, 2) for name in NAMES)
    assert ours >= psnr_y(lanczos, truth, 2) + decibels and ours > clean


@pytest.mark.parametrize("name", NAMES)
def test_flat_colours_stay(engines, name):
    """Exact away from the border, and there within 2 levels."""
    engine: ImageEngine = engines[name]
    for colour in ((0, 0, 0), (255, 255, 255), (128, 128, 128), (60, 60, 60)):
        flat = np.full((48, 50, 3), colour, np.uint8)
        found = engine.upscale(flat).astype(int) - np.array(colour)
        assert np.abs(found).max() <= 3
        assert np.abs(found[40:-40, 40:-40]).max() <= 1
