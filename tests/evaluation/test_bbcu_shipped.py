"""The BBCU-M in training/: it exports without changes and restores photos it never saw."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig
from support.shipped import MODELS, TRAINING, gains

pytest.importorskip("onnxruntime")

SHIPPED = MODELS / "photo_x2_fast.safetensors"


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
    psnr, ssim, shift = gains(engine, photo, np.s_[top:top + 128, left:left + 128])
    assert psnr >= decibels and ssim >= similarity
    assert shift < 1.5
