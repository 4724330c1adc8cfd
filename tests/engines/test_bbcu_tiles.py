"""Tiles of a feed-forward network: any local function gives the whole picture's pixels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy import load_bundle
from bidiff_deploy.engines.tiled import to_tensor, upscale_exactly
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.tiles import plan_tiles
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig
from bidiff_deploy.networks.bbcu.network import Bbcu
from support.seeds import examples
from support.small_bbcu import small_bbcu


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


def test_winograds_tiles_are_the_whole(tmp_path):
    """To the bit: its rounding depends on up to 6x6 pixels, and on where its tiles begin."""
    config = BbcuConfig(channels=16, blocks=2, tail="direct", float_layers=3, alignment=20.0)
    export_bundle(small_bbcu(config), tmp_path / "net.bundle")
    pixels = np.random.default_rng(0).integers(0, 256, (131, 150, 3), np.uint8)
    image = Image(pixels)
    with load_bundle(tmp_path / "net.bundle", threads=2) as engine:
        runs, enlarge = [], engine.enlarge

        def noted(tile: np.ndarray) -> np.ndarray:
            runs.append(enlarge(tile))
            return runs[-1]

        plans = [engine.tile_plan(*pixels.shape[:2], tile) for tile in (None, 160)]
        reach = Bbcu().reach(config)
        assert plans[1].count > 3 and plans[1].rows.starts[1] + 2 * 2 * reach <= 160
        whole, tiled = (upscale_exactly(noted, image, 2, plan) for plan in plans)
    assert np.array_equal(whole.pixels, tiled.pixels)
    # The first tile's floats too, as far as it contributes.
    kept = plans[1].rows.tile - reach * 2
    assert np.array_equal(runs[0][:, :, :kept, :kept], runs[1][:, :, :kept, :kept])


def test_grey_fills_three_planes():
    grey = np.array([[[0], [65535]]], np.uint16)
    assert np.array_equal(to_tensor(grey), np.array([[[[0, 1]]] * 3], np.float32))
    assert to_tensor(grey).flags.c_contiguous
