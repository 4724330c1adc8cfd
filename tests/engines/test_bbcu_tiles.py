"""Tiles of a feed-forward network: any local function gives the whole picture's pixels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.engines.tiled import to_tensor, upscale_exactly
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.tiles import plan_tiles
from support.seeds import examples


def local(reach: int, scale: int):
    """Stands for a network: the largest value within ``reach``, zeros outside, repeated."""
    def run(picture: np.ndarray) -> np.ndarray:
        padded = np.pad(picture, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        side = 2 * reach + 1
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (2, 3))
        # Sub-pixels differ, so that a tile that is put one pixel off is found.
        steps = np.arange(scale * scale, dtype=np.float32).reshape(scale, scale) / 1000
        return np.kron(windows.max((-1, -2)), np.ones((scale, scale), np.float32)) + np.tile(
            steps, picture.shape[2:])
    return run


@examples(60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 4), st.integers(0, 4),
       st.integers(0, 40), st.sampled_from([1, 3]), st.booleans())
def test_tiles_are_the_whole(height, width, scale, reach, larger, channels, alpha):
    random = np.random.default_rng(height * 100 + width)
    image = Image(random.integers(0, 256, (height, width, channels), np.uint8),
                  random.integers(0, 256, (height, width), np.uint8) if alpha else None)
    overlap = 2 * reach * scale
    plan = plan_tiles((height * scale, width * scale), max(64, 2 * overlap) + larger, overlap,
                      scale, lambda rows, columns: 0)
    whole = plan_tiles((height * scale, width * scale), None, 0, scale, lambda rows, columns: 0)
    done: list[tuple[int, int]] = []
    tiled = upscale_exactly(local(reach, scale), image, scale, plan,
                            lambda *told: done.append(told))
    expected = upscale_exactly(local(reach, scale), image, scale, whole)
    assert np.array_equal(tiled.pixels, expected.pixels)
    assert done == [(i + 1, plan.count) for i in range(plan.count)]
    assert (tiled.alpha is None) == (not alpha)
    if alpha:
        assert np.array_equal(tiled.alpha, expected.alpha)


def test_grey_fills_three_planes():
    grey = np.array([[[0], [65535]]], np.uint16)
    assert np.array_equal(to_tensor(grey), np.array([[[[0, 1]]] * 3], np.float32))
    assert to_tensor(grey).flags.c_contiguous
