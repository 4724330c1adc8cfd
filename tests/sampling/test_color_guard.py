"""The guard against shifts of colour: its filter, the streaming form, engines, tiles, command."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.cli import group
from bidiff_deploy.engines.one_run import OneRun
from bidiff_deploy.errors import UsageError
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.resample import to_condition
from bidiff_deploy.images.write import write_image
from bidiff_deploy.sampling.color_match import REACH, ColorMatcher, low_pass, match_color
from support.fake_engine import FakeEngine
from support.seeds import examples
from tools.checks.seams import seam_energy

SIDES = st.one_of(st.integers(1, 40), st.integers(60, 140))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture of soft areas, in [0.2, 0.8]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([0.5 + 0.3 * np.sin(x / 37 + c) * np.cos(y / 29 - c)
                     for c in range(3)]).astype(np.float32)


class Drifting(FakeEngine):
    """The image behind every latent is the condition with a tint of its own mean."""

    tint = np.float32([0.12, -0.08, 0.05])[:, None, None]

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        mean = condition.mean(axis=(1, 2, 3), keepdims=True)
        return super()._predict(noisy, condition + 2 * mean * self.tint, timestep)


def test_the_filter_is_the_linear_spline():
    """An impulse becomes (32 - |dx|) (32 - |dy|) / 1024^2, all of it exact in float32."""
    planes = np.zeros((90, 101), np.float32)
    planes[45, 50] = 1
    rise = np.maximum(0, 32 - np.abs(np.arange(101) - 50)) / 1024
    expected = np.maximum(0, 32 - np.abs(np.arange(90) - 45))[:, None] / 1024 * rise
    assert REACH == 31
    np.testing.assert_array_equal(low_pass(planes), expected.astype(np.float32))


@pytest.mark.parametrize("height, width", [(1, 1), (5, 200), (64, 31)])
def test_constants_stay_and_borders_are_mirrored(height, width):
    np.testing.assert_array_equal(low_pass(np.full((2, height, width), 0.3, np.float32)),
                                  np.full((2, height, width), 0.3, np.float32))
    planes = noise(height, width)
    tiled = np.pad(planes, 2 * REACH, mode="symmetric")
    inside = low_pass(tiled)[2 * REACH:2 * REACH + height, 2 * REACH:2 * REACH + width]
    np.testing.assert_array_equal(low_pass(planes), inside)


def test_a_shift_is_removed_and_details_stay():
    condition = smooth(120, 150)
    rows, columns = np.indices((120, 150))
    detail = np.where((rows + columns) % 2, 0.05, -0.05).astype(np.float32)
    shift = np.float32([0.1, -0.07, 0.02])[:, None, None]
    matched = match_color(condition + detail + shift, condition)
    assert np.abs(matched - (condition + detail)).max() < 2e-3  # where mirrors break the pattern
    assert np.abs(matched - (condition + detail))[:, 32:-32, 32:-32].max() < 1e-6
    # A tint that changes over the picture goes as well, all but what is as fine as 64 pixels.
    tint = (0.1 * np.cos(np.pi * columns / 150)).astype(np.float32)
    left = match_color(condition + detail + tint, condition) - (condition + detail)
    assert np.abs(left).max() < 0.15 * np.abs(tint).max()


def test_the_result_is_clipped_and_its_inputs_are_kept():
    image, condition = noise(3, 40, 40), noise(3, 40, 40, seed=1)
    before = image.copy(), condition.copy()
    matched = match_color(image, condition)
    assert matched.dtype == np.float32 and matched.min() == 0 and matched.max() == 1
    assert np.array_equal(before[0], image) and np.array_equal(before[1], condition)


@examples(60)
@given(height=SIDES, width=SIDES, pieces=st.lists(st.integers(1, 64), min_size=1, max_size=5))
def test_pieces_give_the_bits_of_the_whole(height, width, pieces):
    image, condition = noise(3, height, width), noise(3, height, width, seed=1)
    matcher, found, top, turn = ColorMatcher(height), [], 0, 0
    while top < height:
        rows = slice(top, top + pieces[turn % len(pieces)])
        for place, ready in matcher.add(image[:, rows], condition[:, rows]):
            assert place == sum(part.shape[1] for part in found)
            found.append(ready)
        top, turn = rows.stop, turn + 1
    np.testing.assert_array_equal(np.concatenate(found, axis=1), match_color(image, condition))


def test_the_matcher_holds_few_rows():
    matcher, held = ColorMatcher(4000), 0
    for _ in range(0, 4000, 32):
        for _ in matcher.add(noise(1, 32, 4), noise(1, 32, 4)):
            held = max(held, matcher._image.shape[1])
    assert held <= 3 * REACH


def test_an_engine_removes_the_drift_and_changes_nothing_unasked():
    with Drifting() as engine:
        condition = smooth(64, 96)[None]
        plain = engine.sample(condition, seed=3)
        assert np.array_equal(engine.sample(condition, seed=3, match_color=False), plain)
        assert np.abs(plain - condition).max() > 0.05
        matched = engine.sample(condition, seed=3, match_color=True)
        np.testing.assert_array_equal(matched, match_color(plain, condition))
        assert np.abs(matched - condition).max() < 1e-5
        batch = np.concatenate([condition, condition[:, :, ::-1]])
        np.testing.assert_array_equal(
            engine.sample(batch, seed=3, match_color=True)[:1], matched)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_are_matched_as_one_image(channels):
    """Tiles drift apart, each by its own mean; matched, the picture is the condition again."""
    pixels = np.rint(smooth(90, 110)[:channels] * 255).astype(np.uint8).transpose(1, 2, 0)
    pixels[:, 55:] //= 2
    image = Image(pixels)
    with Drifting() as engine:
        condition = to_condition(pixels, 2)
        plan = engine.tile_plan(90, 110, 64, None, 16)
        assert plan.count > 4
        options = {"tile": 64, "overlap": 16}
        drifted = engine.upscale_image(image, **options)
        assert np.array_equal(
            drifted.pixels, engine.upscale_image(image, match_color=False, **options).pixels)
        matched = engine.upscale_image(image, match_color=True, **options)
        wanted = image.enlarged(np.clip(condition, 0, 1), 2).pixels.astype(int)
        before = np.abs(drifted.pixels - wanted).mean()
        after = np.abs(matched.pixels - wanted).mean()
        assert after < 0.1 * before
        steps = [seam_energy(result.pixels.transpose(2, 0, 1) / 255,
                             wanted.transpose(2, 0, 1) / 255, plan).step
                 for result in (drifted, matched)]
        assert steps[1] < 0.5 * steps[0]


def test_tiles_and_the_whole_are_matched_alike():
    """An engine without drift of its own: tiles differ from the whole by nothing but rounding."""
    image = Image(np.rint(noise(100, 70, 3) * 65535).astype(np.uint16))
    with FakeEngine() as engine:
        whole = engine.upscale_image(image, tile=None, match_color=True).pixels.astype(int)
        tiled = engine.upscale_image(image, tile=64, match_color=True).pixels.astype(int)
    assert np.abs(whole - tiled).max() <= 1


def test_feed_forward_engines_refuse_it():
    with pytest.raises(UsageError, match="match_color is for diffusion bundles"):
        OneRun.check_loop(SimpleNamespace(), None, "default", True)


def test_the_command(tmp_path, monkeypatch):
    import bidiff_deploy

    monkeypatch.setattr(bidiff_deploy, "load", lambda *_, **__: Drifting())
    write_image(tmp_path / "in.png", np.rint(smooth(40, 40) * 255).astype(np.uint8)
                .transpose(1, 2, 0))
    for name, extra in (("plain.png", []), ("matched.png", ["--match-color"])):
        done = CliRunner().invoke(group, ["upscale", "--model", "bundle", str(tmp_path / "in.png"),
                                         "-o", str(tmp_path / name), "--quiet", "--json", *extra])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)[0]["width"] == 80
    plain, matched = (read_image(tmp_path / name).pixels for name in ("plain.png", "matched.png"))
    with Drifting() as engine:
        image = read_image(tmp_path / "in.png")
        assert np.array_equal(plain, engine.upscale_image(image).pixels)
        assert np.array_equal(matched, engine.upscale_image(image, match_color=True).pixels)
    assert not np.array_equal(plain, matched)
