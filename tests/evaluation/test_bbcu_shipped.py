"""The BBCU-M in training/: it exports without changes and restores photos it never saw."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.images.metrics import psnr_y, ssim_y
from bidiff_deploy.images.read import read_image
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig

pytest.importorskip("onnxruntime")

TRAINING = Path(__file__).parents[2] / "training"
SHIPPED = TRAINING / "bbcu_m_x2.safetensors"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    bundle = tmp_path_factory.mktemp("shipped") / "b"
    export_bundle(read_checkpoint(SHIPPED), bundle)
    with load_bundle(bundle, threads=2) as engine:
        yield engine


def test_it_is_the_published_network_and_small():
    assert SHIPPED.stat().st_size < 256_000
    found = read_checkpoint(SHIPPED)
    assert found.config == BbcuConfig() and found.scale == 2 and not found.assumptions
    with open(TRAINING / "bbcu_m_x2.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["gain_over_bicubic"]) > 2


# Measured on these crops: +0.76 dB and +0.036 SSIM; -0.45 dB and +0.057 SSIM (the small image
# aliases the roof tiles).
@pytest.mark.parametrize("photo, top, left, decibels, similarity", [
    ("chelsea.png", 90, 160, 0.5, 0.025), ("china.jpg", 159, 177, -0.6, 0.035)])
def test_it_beats_bicubic_on_photos_it_never_saw(engine, photo, top, left, decibels, similarity):
    original = read_image(TRAINING / "photos" / photo).pixels[top:top + 128, left:left + 128]
    small = Image.fromarray(original).resize((64, 64), Image.Resampling.BICUBIC)
    bicubic = np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC))
    ours = engine.upscale(np.asarray(small))
    assert psnr_y(ours, original, 2) >= psnr_y(bicubic, original, 2) + decibels
    assert ssim_y(ours, original, 2) >= ssim_y(bicubic, original, 2) + similarity
    assert np.abs(ours.mean((0, 1)) - original.mean((0, 1))).max() < 1.5
