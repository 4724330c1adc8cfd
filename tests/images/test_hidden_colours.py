"""Colours under alpha 0 never reach a network; what is visible does not change."""

from __future__ import annotations

import numpy as np
import pytest

from bidiff_deploy.images.hidden_colours import without_hidden_colours
from bidiff_deploy.images.image import Image
from support.image_samples import make


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("place", [(0, 0), (20, 31), (7, 50)])
def test_one_colour_fills_everything(dtype, channels: int, place: tuple[int, int]) -> None:
    colour = np.array([200, 30, 90][:channels]) * (np.iinfo(dtype).max // 255)
    alpha = np.zeros((37, 52), dtype)
    alpha[place] = 1
    pixels = np.random.default_rng(0).integers(0, 255, (37, 52, channels)).astype(dtype)
    pixels[place] = colour
    found = without_hidden_colours(Image(pixels, alpha)).pixels
    assert found.dtype == dtype and (found == colour).all()


def test_visible_pixels_stay_and_hidden_ones_are_their_means() -> None:
    image = make(4, np.uint8)
    alpha = np.where(np.arange(image.height)[:, None] < 3, 0, image.alpha | 1).astype(np.uint8)
    image = Image(image.pixels, alpha)
    found = without_hidden_colours(image)
    visible = alpha > 0
    np.testing.assert_array_equal(found.pixels[visible], image.pixels[visible])
    np.testing.assert_array_equal(found.alpha, alpha)
    mean = image.pixels[3, 4:7].astype(int).sum(axis=0)
    np.testing.assert_array_equal(found.pixels[2, 5], (mean + 1) // 3)
    again = Image(np.where(visible[:, :, None], image.pixels, 255 - image.pixels), alpha)
    np.testing.assert_array_equal(without_hidden_colours(again).pixels, found.pixels)


def test_nothing_hidden_changes_nothing_and_nothing_visible_is_black() -> None:
    image = make(4, np.uint8)
    opaque = Image(image.pixels, image.alpha | 1)
    assert without_hidden_colours(opaque) is opaque
    assert without_hidden_colours(make(3, np.uint8)).alpha is None
    hidden = Image(image.pixels, np.zeros_like(image.alpha))
    assert not without_hidden_colours(hidden).pixels.any()
