"""The installed feed-forward models: small, better than bicubic on photos they never saw, and exact
on flat colours."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy import load
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines import open_engine
from bidiff_deploy.engines.image_engine import ImageEngine
from bidiff_deploy.export.write import bundle_in_memory
from bidiff_deploy.images.matlab_bicubic import make_low
from bidiff_deploy.images.metrics import psnr_y
from bidiff_deploy.training.recipe import read_recipe
from support.shipped import MODELS, TRAINING, gains

pytest.importorskip("onnxruntime")
NAMES = ("photo_x2", "photo_jpeg_x2", "photo_x4")


@pytest.fixture(scope="module")
def engines():
    opened = {name: load(name.replace("_", "-"), threads=1) for name in NAMES}
    yield opened
    for engine in opened.values():
        engine.close()


def reduced(photo: str, scale: int, quality: int | None) -> tuple[np.ndarray, Image.Image]:
    """The photo, and it reduced and saved as a JPEG with halved chroma, or not (None)."""
    with Image.open(TRAINING / "photos" / photo) as image:
        whole = np.asarray(image.convert("RGB"))
    height, width = (side // scale * scale for side in whole.shape[:2])
    small = Image.fromarray(make_low(whole[:height, :width], scale))
    if quality is not None:
        file = io.BytesIO()
        small.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        small = Image.open(file)
    return whole[:height, :width], small


@pytest.mark.parametrize("name", NAMES)
def test_they_are_small_and_of_their_recipes(name):
    pytest.importorskip("torch")
    file = MODELS / f"{name}.safetensors"
    found, recipe = read_checkpoint(file), read_recipe(TRAINING / f"{name}.yaml")
    assert file.stat().st_size < 2e6
    assert (found.config, found.scale) == (recipe.network, recipe.scale)


# Measured: +1.32 dB and +0.024; +0.51 dB and +0.040.
@pytest.mark.parametrize("photo, decibels, similarity", [
    ("chelsea.png", 1.0, 0.02), ("china.jpg", 0.35, 0.035)])
def test_photos_it_never_saw(engines, photo, decibels, similarity):
    psnr, ssim, shift = gains(engines["photo_x2"], photo)
    assert psnr >= decibels and ssim >= similarity and shift < 0.5


# Measured: +0.27, +0.31, and as JPEG +0.22 dB (chelsea as JPEG: -0.05 dB).
@pytest.mark.parametrize("photo, quality, decibels", [
    ("chelsea.png", None, 0.15), ("china.jpg", None, 0.2), ("china.jpg", 85, 0.1)])
def test_four_times_larger(engines, photo, decibels, quality):
    """Against Lanczos, clean and as a JPEG."""
    truth, small = reduced(photo, 4, quality)
    lanczos = np.asarray(small.resize(truth.shape[1::-1], Image.Resampling.LANCZOS))
    ours = engines["photo_x4"].upscale(np.asarray(small))
    assert psnr_y(ours, truth, 4) >= psnr_y(lanczos, truth, 4) + decibels


# Measured: +0.16 and +0.24 dB (the model for clean photos: -0.05 and +0.18 dB).
@pytest.mark.parametrize("photo, decibels", [("chelsea.png", 0.05), ("china.jpg", 0.1)])
def test_jpegs_of_photos_it_never_saw(engines, photo, decibels):
    """Of quality 85 with halved chroma, against Lanczos and the model for clean photos."""
    truth, small = reduced(photo, 2, 85)
    lanczos = np.asarray(small.resize(truth.shape[1::-1], Image.Resampling.LANCZOS))
    clean, ours = (psnr_y(engines[name].upscale(np.asarray(small)), truth, 2)
                   for name in NAMES[:2])
    assert ours >= psnr_y(lanczos, truth, 2) + decibels and ours > clean


@pytest.mark.parametrize("name", NAMES)
def test_rounded_factors_leave_the_picture(engines, name):
    """They are run as fast bundles. Measured: 53 to 60 dB, and at most 0.011 dB of a photo's
    PSNR-Y."""
    fast = engines[name]
    assert fast.bundle.precision == "bfloat16"
    truth, small = reduced("chelsea.png", fast.scale, None)
    exact = open_engine(bundle_in_memory(read_checkpoint(MODELS / f"{name}.safetensors")),
                        threads=1, backend="onnxruntime")
    pictures = [engine.upscale(np.asarray(small)) for engine in (fast, exact)]
    assert exact.precision == "float32" and psnr_y(*pictures) > 50
    scores = [psnr_y(picture, truth, fast.scale) for picture in pictures]
    assert abs(scores[0] - scores[1]) < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_flat_colours_stay(engines, name):
    """To a level, also at the border, which is continued before the network runs."""
    engine: ImageEngine = engines[name]
    for colour in ((0, 0, 0), (255, 255, 255), (128, 128, 128), (60, 60, 60), (200, 200, 200)):
        flat = np.full((48, 50, 3), colour, np.uint8)
        assert np.abs(engine.upscale(flat).astype(int) - np.array(colour)).max() <= 1
