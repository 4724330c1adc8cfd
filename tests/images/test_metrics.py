"""PSNR and SSIM against scikit-image, and against figures computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bidiff_deploy.errors import ImageError
from bidiff_deploy.images.metrics import luma, psnr_y, ssim_y


def pair(shape=(64, 51, 3), dtype=np.uint8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    top = np.iinfo(dtype).max
    smooth = np.cumsum(np.cumsum(rng.random(shape), 0), 1)
    first = smooth / smooth.max() * top
    second = np.clip(first + rng.normal(0, top / 20, shape), 0, top)
    return first.astype(dtype), second.astype(dtype)


@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_scikit_image_agrees(border: int, dtype) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    first, second = pair(dtype=dtype)
    inside = slice(border, -border or None)
    y1, y2 = luma(first)[inside, inside], luma(second)[inside, inside]
    assert psnr_y(first, second, border) == pytest.approx(
        metrics.peak_signal_noise_ratio(y1, y2, data_range=255), abs=1e-9)
    assert ssim_y(first, second, border) == pytest.approx(
        metrics.structural_similarity(y1, y2, data_range=255, gaussian_weights=True, sigma=1.5,
                                      use_sample_covariance=False), abs=1e-12)


def test_luma_is_scikit_images() -> None:
    color = pytest.importorskip("skimage.color")
    first, _ = pair()
    np.testing.assert_allclose(luma(first), color.rgb2ycbcr(first)[:, :, 0], atol=1e-9)


def test_luma_of_known_colours() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    np.testing.assert_allclose(luma(colours), [[16, 235, 81.481]])
    np.testing.assert_allclose(luma(np.array([[0.0, 1.0]])), [[16, 235]])


def test_psnr_by_hand() -> None:
    grey = np.full((20, 20), 100, np.uint8)
    other = grey + np.uint8(10)
    difference = 10 / 255 * 219
    assert psnr_y(grey, other) == pytest.approx(20 * np.log10(255 / difference))
    assert psnr_y(grey, grey) == float("inf") and ssim_y(grey, grey) == 1.0


def test_the_border_is_cropped() -> None:
    first, _ = pair()
    second = first.copy()
    second[:4], second[-4:], second[:, :4], second[:, -4:] = 0, 0, 0, 0
    assert psnr_y(first, second, 4) == float("inf") and psnr_y(first, second, 3) < 60


@pytest.mark.parametrize(("first", "second", "border", "words"), [
    (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 21, 3), np.uint8), 0, "cannot be compared"),
    (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8), 5, "too few"),
    (np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8), -1, "too few"),
    (np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20, 4), np.uint8), 0, "no luma"),
    (np.zeros((20, 20, 3), np.int32), np.zeros((20, 20, 3), np.int32), 0, "no luma")])
def test_what_cannot_be_compared(first, second, border: int, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        ssim_y(first, second, border)
