"""Matlab's imresize against numbers worked out by hand, and against Pillow inside the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from bidiff_deploy.errors import ImageError, UsageError
from bidiff_deploy.images.matlab_bicubic import imresize, make_low
from support.seeds import examples

# The kernel at 1/4, 3/4, 5/4 and 7/4 is 222, 58, -18 and -6 of 256; to halve an image it is twice
# as wide and half as high.
HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256


def column(length: int, at: int) -> np.ndarray:
    values = np.zeros((length, 1))
    values[at] = 1
    return values


@pytest.mark.parametrize("at, expected", [
    (4, [-3, 29, 111, -9]),  # output j has its centre at 2 j + 1/2
    (7, [0, 0, -9 - 3, 111 + 29]),  # the border is mirrored, so position 8 is pixel 7 too
    (6, [0, -3, 29 + 0, 111 - 9])])
def test_halving_by_hand(at, expected):
    np.testing.assert_array_equal(imresize(column(8, at), 4, 1)[:, 0] * 256, expected)
    np.testing.assert_array_equal(imresize(column(8, at).T, 1, 4)[0] * 256, expected)


def test_doubling_by_hand():
    """Output j has its centre at j / 2 - 1/4, so the pixel at 2 is seen from 1 to 8; the one that
    is mirrored to -3 from none."""
    found = imresize(column(6, 2), 12, 1)[:, 0] * 256
    np.testing.assert_array_equal(found, [0, -6, -18, 58, 222, 222, 58, -18, -6, 0, 0, 0])


def test_quartering_by_hand():
    """The kernel at 1/8, 3/8, ... 15/8 over 4, in 4096ths: 987, 745, 399, 93, -49, -75, -45, -7.
    Output j has its centre at 4 j + 3/2, so pixel 12 is 6.5, 2.5, 1.5 and 5.5 from outputs 1 to
    4."""
    found = imresize(column(32, 12), 8, 1)[:, 0] * 4096
    np.testing.assert_array_equal(found, [0, -45, 399, 745, -75, 0, 0, 0])


def test_eight_bits_are_rounded_after_each_axis_halves_up():
    """128 in the middle: the rows become -1.5, 14.5, 55.5 and -4.5, so 0, 15, 56 and 0."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[4, 4] = 128
    found = imresize(pixels, 4, 4)
    assert found.dtype == np.uint8
    # 15 * 29 / 256 = 1.7, 15 * 111 / 256 = 6.504, 56 * 29 / 256 = 6.3, 56 * 111 / 256 = 24.3
    assert found.tolist() == [[0, 0, 0, 0], [0, 2, 7, 0], [0, 6, 24, 0], [0, 0, 0, 0]]


def test_the_axis_that_shrinks_more_comes_first():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32), np.uint8)
    rows_first = imresize(imresize(pixels, 8, 32), 8, 8)
    columns_first = imresize(imresize(pixels, 16, 8), 8, 8)
    assert not np.array_equal(rows_first, columns_first)
    assert np.array_equal(imresize(pixels, 8, 8), columns_first)


def test_floats_are_neither_rounded_nor_clipped():
    edge = np.repeat([0.0, 1.0], 8)[None].repeat(4, 0)
    found = imresize(edge, 2, 8)
    assert found.dtype == np.float64 and found.min() < 0 and found.max() > 1
    np.testing.assert_allclose(imresize(edge.astype(np.float32), 2, 8), found, atol=1e-7)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_ramp_stays_one_and_colours_are_apart(scale):
    y, x = np.mgrid[:24, :36].astype(float)
    image = np.stack([x, y, 2 * x - y], -1)
    small = imresize(image, 24 // scale, 36 // scale)
    centres = image[::scale, ::scale] + image[scale - 1::scale, scale - 1::scale]
    inside = slice(2, -2)  # beyond it the kernel reaches over the border
    np.testing.assert_allclose(small[inside, inside], centres[inside, inside] / 2, atol=1e-12)
    for channel in range(3):
        np.testing.assert_array_equal(small[..., channel],
                                      imresize(image[..., channel], 24 // scale, 36 // scale))


@examples(40)
@given(scale=st.integers(2, 4), data=st.data())
def test_pillow_agrees_inside(scale, data):
    """Both round after each axis, in another order of axes, and Pillow leaves out what is beyond
    the border. An error of half a level after the first axis grows by at most sum |weights| =
    304/256 (x2; 1.19 for the others) in the second, which adds half a level: 1.1 each, 2 apart.
    Pixels are such that neither clips what is between the axes: clipping in another order of
    axes has no such bound."""
    shape = data.draw(st.tuples(st.integers(5, 12), st.integers(5, 12)))
    pixels = data.draw(hnp.arrays(np.uint8, (shape[0] * scale, shape[1] * scale, 3),
                                  elements=st.integers(64, 191)))
    found = make_low(pixels, scale).astype(int)
    pillow = np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BICUBIC))
    inside = slice(2, -2)
    assert np.abs(found - pillow)[inside, inside].max() <= 2


def test_pillow_agrees_on_a_smooth_image():
    """Less than one pixel in five differs, and by one: it is the order of the axes."""
    y, x = np.mgrid[:96, :128] / 7
    pixels = (127 + 100 * np.sin(x) * np.cos(y)).astype(np.uint8)[..., None].repeat(3, 2)
    pillow = np.asarray(Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC))
    difference = np.abs(make_low(pixels, 2).astype(int) - pillow)[2:-2, 2:-2]
    assert difference.max() == 1 and (difference > 0).mean() < 0.2


def test_one_pixel_and_equal_sizes():
    assert imresize(np.array([[7]], np.uint8), 3, 5).tolist() == [[7] * 5] * 3
    assert imresize(np.full((3, 4), 9, np.uint8), 1, 1).tolist() == [[9]]
    same = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(imresize(same, 3, 4), same)


@pytest.mark.parametrize("call, error, says", [
    (lambda: imresize(np.zeros((2, 2), np.uint16), 1, 1), ImageError, "type uint16"),
    (lambda: imresize(np.zeros(4), 1, 1), ImageError, r"shape \(4,\)"),
    (lambda: imresize(np.zeros((0, 4)), 1, 1), ImageError, "at least one pixel"),
    (lambda: imresize(np.zeros((4, 4)), 0, 1), UsageError, "at least one pixel"),
    (lambda: make_low(np.zeros((5, 4, 3), np.uint8), 2), UsageError,
     "4x5 pixels are not a multiple")])
def test_what_cannot_be_resized(call, error, says):
    with pytest.raises(error, match=says):
        call()
