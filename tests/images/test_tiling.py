"""Tiles: geometry of every size, equality with the whole image, choice, memory and seams."""

from __future__ import annotations

import functools
import importlib.util
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy import machine
from bidiff_deploy.engines.tile_choice import Tile, choose
from bidiff_deploy.errors import CheckpointError, EngineError, UsageError
from bidiff_deploy.images.hidden_colours import without_hidden_colours
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.resample import crop_of_condition, pad_reflect, to_condition
from bidiff_deploy.images.tiles import MARGIN, Axis, Blender, TilePlan, plan_tiles
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.networks.bi_diffsr.memory import step_bytes, step_work
from bidiff_deploy.sampling.noise import gaussian_noise
from support.fake_engine import FakeEngine
from support.seeds import examples
from tools.checks.seams import Seams, seam_energy

PUBLISHED = NetworkConfig()
DEMO = NetworkConfig(inner_channel=32, norm_groups=4, channel_mults=(1, 2, 4), res_blocks=1,
                     fp_res=(256,), total_step=200, dynamic_group=20)
MIB = 1 << 20


class Local(FakeEngine):
    """Predicts from pixels three apart at most, and notes the tiles' inputs."""

    def __init__(self, **options) -> None:
        super().__init__(timesteps=(120, 40), **options)
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        self.seen.append((noisy, condition))
        wide = np.pad(noisy + 2 * condition, [(0, 0), (0, 0), (3, 3), (3, 3)])
        around = wide[:, :, :-6, 3:-3] + wide[:, :, 6:, 3:-3] + wide[:, :, 3:-3, :-6] \
            + wide[:, :, 3:-3, 6:]
        return np.tanh(noisy - condition + 0.1 * around).astype(np.float32)


def picture(height: int, width: int, channels: int = 3, dtype=np.uint8, alpha: bool = False,
            seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max + 1
    return Image(rng.integers(0, top, (height, width, channels)).astype(dtype),
                 rng.integers(0, top, (height, width)).astype(dtype) if alpha else None, b"p")


@examples(300)
@given(size=st.integers(1, 300), tile=st.integers(64, 160), overlap=st.integers(0, 32),
       unit=st.sampled_from([8, 16]))
def test_axes_of_all_sizes(size: int, tile: int, overlap: int, unit: int) -> None:
    plan = plan_tiles((size, 1), tile, overlap, unit, lambda height, width: 1)
    axis = plan.rows
    assert axis.padded % unit == axis.tile % unit == 0 and 0 <= axis.padded - size < unit
    assert axis.tile <= -(-tile // unit) * unit
    assert axis.starts[0] == 0 and axis.starts[-1] + axis.tile == axis.padded
    assert all(start % unit == 0 for start in axis.starts)
    assert all(a < b <= a + axis.tile - overlap for a, b in zip(axis.starts, axis.starts[1:]))
    total = np.zeros(axis.padded)
    for index, start in enumerate(axis.starts):
        weight = axis.weights(index)
        assert weight.shape == (axis.tile,) and weight.min() >= 0
        total[start:start + axis.tile] += weight
        assert not weight[:max(axis.first_row(index) - start, 0)].any()
    np.testing.assert_allclose(total, 1, atol=1e-6)  # so every pixel is covered
    assert axis.weights(0)[0] == axis.weights(len(axis.starts) - 1)[-1] == 1  # no ramp at borders


def test_margins_are_thrown_away_and_ramps_are_smooth() -> None:
    axis = Axis.cut(1000, 256, 48, 8)
    for index, (begin, end) in enumerate(axis.ramps):
        assert begin >= axis.starts[index + 1] + MARGIN
        assert end <= axis.starts[index] + 256 - MARGIN
    assert np.abs(np.diff(axis.weights(1))).max() < np.pi / 2 / (48 - 2 * MARGIN) + 0.01


@examples(60)
@given(height=st.integers(1, 150), width=st.integers(1, 150), scale=st.integers(1, 4),
       grey=st.booleans(), data=st.data())
def test_crops_of_the_condition(height, width, scale, grey, data) -> None:
    pixels = picture(height, width, 1 if grey else 3).pixels
    whole = to_condition(pixels, scale)
    top = data.draw(st.integers(0, height * scale - 1))
    left = data.draw(st.integers(0, width * scale - 1))
    rows = data.draw(st.integers(1, height * scale - top))
    columns = data.draw(st.integers(1, width * scale - left))
    np.testing.assert_array_equal(
        crop_of_condition(pixels, scale, top, left, rows, columns),
        whole[:, top:top + rows, left:left + columns])


@examples(25)
@given(height=st.integers(1, 150), width=st.integers(1, 150), scale=st.sampled_from([1, 2, 3]),
       tile=st.sampled_from([64, 72, 100]), multiple=st.sampled_from([4, 8, 16]))
def test_tiles_start_from_crops_of_the_whole(height, width, scale, tile, multiple) -> None:
    engine = Local(scale=scale, size_multiple=multiple)
    image = picture(height, width)
    plan = engine.tile_plan(height, width, tile)
    engine.upscale_image(image, 7, tile=tile, start=None)
    padded, _ = pad_reflect(to_condition(image.pixels, scale)[None], engine.unit)
    noise = gaussian_noise(padded.shape, 7)
    firsts = engine.seen[::2]  # of two steps
    places = [(top, left) for top in plan.rows.starts for left in plan.columns.starts]
    assert len(firsts) == len(places) == plan.count
    for (noisy, condition), (top, left) in zip(firsts, places):
        crop = np.s_[:, :, top:top + plan.tile_height, left:left + plan.tile_width]
        assert noisy.shape == condition.shape == (1, 3, plan.tile_height, plan.tile_width)
        np.testing.assert_array_equal(noisy, noise[crop])
        np.testing.assert_array_equal(condition, padded[crop])


@pytest.mark.parametrize(("channels", "dtype", "alpha"), [
    (3, np.uint8, False), (3, np.uint16, True), (1, np.uint8, True), (1, np.uint16, False)])
@pytest.mark.parametrize(("height", "width", "scale"), [(97, 131, 2), (40, 150, 3), (70, 64, 4)])
def test_tiles_of_a_local_network_are_the_whole(channels, dtype, alpha, height, width,
                                                scale) -> None:
    # Two steps reach 6 pixels: less than the margin, so every pixel sees what it does in the whole.
    image = picture(height, width, channels, dtype, alpha)
    engine = Local(scale=scale)
    whole = engine.upscale_image(image, 3, tile=None)
    tiled = engine.upscale_image(image, 3, tile=96)
    assert engine.tile_plan(height, width, 96).count > 1
    assert tiled.pixels.shape == whole.pixels.shape and tiled.pixels.dtype == dtype
    assert tiled.icc_profile == b"p"
    # Weights that add up to 1 within 1e-7 can round a value at half a level the other way.
    difference = np.abs(tiled.pixels.astype(int) - whole.pixels)
    assert difference.max() <= 1 and np.mean(difference > 0) < (1e-3 if dtype == np.uint8 else 0.1)
    if alpha:
        np.testing.assert_array_equal(tiled.alpha, whole.alpha)
    else:
        assert tiled.alpha is None


def test_one_tile_is_the_whole_bit_by_bit() -> None:
    image = picture(33, 45, alpha=True)
    condition = to_condition(without_hidden_colours(image).pixels, 2)
    expected = image.enlarged(Local().sample(condition, seed=4)[0], 2)
    for tile in ("auto", None, 96, 1024):
        found = Local().upscale_image(image, 4, tile=tile)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        np.testing.assert_array_equal(found.alpha, expected.alpha)


def test_options_reach_the_tiles_through_arrays_and_pictures() -> None:
    pillow = pytest.importorskip("PIL.Image")
    array = picture(80, 90).pixels
    engine = Local()
    found = engine.upscale(array, 2, tile=64, overlap=16, steps=1)
    count = engine.tile_plan(80, 90, 64, overlap=16).count
    assert found.shape == (160, 180, 3) and len(engine.seen) == count == 12
    again = engine.upscale(pillow.fromarray(array), 2, tile=64, overlap=16, steps=1)
    np.testing.assert_array_equal(np.asarray(again), found)


def test_progress_counts_over_all_tiles() -> None:
    engine, steps, tiles = Local(), [], []
    report = {"on_step": lambda *step: steps.append(step),
              "on_tile": lambda *tile: tiles.append(tile)}
    engine.upscale_image(picture(80, 60), tile=64, **report)
    count = engine.tile_plan(80, 60, 64).count
    assert steps == [(i + 1, 2 * count) for i in range(2 * count)]
    assert tiles == [(i + 1, count) for i in range(count)]
    steps.clear(), tiles.clear()
    engine.upscale_image(picture(8, 8), **report)
    assert steps == [(1, 2), (2, 2)] and tiles == [(1, 1)]


@pytest.mark.parametrize(("options", "words"), [
    ({"tile": 63}, "tile is 63; it must be a whole number of pixels, at least 64"),
    ({"tile": 0}, "tile is 0"),
    ({"tile": 80.0}, "tile is 80.0; it must be a whole number"), ({"tile": True}, "tile is True"),
    ({"tile": "big"}, "tile is 'big'; give a number of pixels, None or 'auto'"),
    ({"memory": -5}, "memory is -5; it must be a whole number of bytes, at least 1"),
    ({"memory": 0}, "memory is 0"),
    ({"memory": 1.5}, "memory is 1.5"), ({"overlap": -1}, "overlap is -1"),
    ({"overlap": "8"}, "overlap is '8'"),
    ({"tile": 64, "overlap": 40}, "overlap 40 is more than half of tile 64"),
    ({"memory": MIB},
     r"memory 1 MiB is too little: the smallest possible tile, 64x64, needs about \d+"),
    ({"tile": None, "memory": MIB}, r"the whole image needs about \d+ MiB, but memory is 1 MiB"),
    ({"tile": 128, "memory": MIB}, r"tile 128 needs about \d+ MiB"),
    ({"tile": 64, "seed": -1}, "seed is -1"), ({"tile": 64, "steps": 9}, "there are 2")])
def test_refused_options(options: dict, words: str) -> None:
    engine = Local()
    with pytest.raises(UsageError, match=words) as caught:
        engine.upscale_image(picture(300, 300), **options)
    assert "\n" not in str(caught.value) and engine.seen == []
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.upscale_image(picture(300, 300), tile=64)


def test_auto_is_whole_where_it_fits() -> None:
    engine = FakeEngine()
    plan = engine.tile_plan(512, 512, memory=1 << 40)
    assert plan.whole and plan.tile_height == 1024
    assert plan.step_bytes == engine.step_bytes(1024, 1024)
    tight = engine.tile_plan(512, 512, memory=plan.peak_bytes - 1)
    assert not tight.whole and tight.peak_bytes < plan.peak_bytes
    large = engine.tile_plan(3000, 4000, memory=1 << 40)  # attention would take hours
    assert 256 <= large.tile_height == large.tile_width <= 1024
    assert large.to_dict() == {
        "tiles": large.count, "rows": len(large.rows.starts),
        "columns": len(large.columns.starts), "tile_height": large.tile_height,
        "tile_width": large.tile_width, "overlap": large.overlap,
        "estimated_bytes": large.peak_bytes}


@examples(60)
@given(height=st.integers(1, 5000), width=st.integers(1, 5000), memory=st.integers(64, 4096),
       tile=st.sampled_from(["auto", "auto", 256, 512]))
def test_plans_keep_to_the_budget(height: int, width: int, memory: int, tile) -> None:
    try:
        plan = FakeEngine().tile_plan(height, width, tile, memory=memory * MIB)
    except UsageError as error:
        assert "needs about" in str(error)
        return
    assert plan.peak_bytes <= memory * MIB
    assert (plan.height, plan.width) == (2 * height, 2 * width)
    assert plan.tile_height <= max(1024, plan.tile_width) or plan.whole


def test_the_default_budget_is_half_of_what_is_left(monkeypatch) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(machine, "memory", lambda: {"total": 1 << 40, "available": 200 * MIB})
    small = engine.tile_plan(500, 500)
    assert small.peak_bytes <= 100 * MIB and not small.whole
    monkeypatch.setattr(machine, "memory", lambda: {"total": None, "available": 2 * MIB})
    assert engine.tile_plan(500, 500).tile_height == 64  # it is tried, since nobody set a limit
    monkeypatch.setattr(machine, "memory", lambda: {"total": None, "available": None})
    assert engine.tile_plan(500, 500).whole


WIDE = NetworkConfig(channel_mults=(1, 2, 4), fp_res=())
DEEP = NetworkConfig(inner_channel=32, norm_groups=8, res_blocks=3, fp_res=(256,))
FLAT = NetworkConfig(inner_channel=48, norm_groups=8, channel_mults=(1, 2), res_blocks=1)
# Peak over the open session, MiB, of three steps in a fresh process, two threads, ONNX Runtime
# 1.31.1 without memory patterns, measured on two cores of a Zen 5. WIDE, DEEP and FLAT were
# measured after the factors had been fitted to the others.
MEASURED = [
    (WIDE, False, 256, 256, 143), (WIDE, False, 512, 512, 497), (WIDE, False, 768, 768, 1150),
    (DEEP, False, 256, 256, 94), (DEEP, False, 512, 512, 320), (DEEP, False, 768, 768, 713),
    (FLAT, False, 256, 256, 103), (FLAT, False, 512, 512, 353), (FLAT, False, 768, 768, 774),
    (DEMO, False, 256, 256, 66), (DEMO, False, 384, 384, 145), (DEMO, False, 512, 512, 204),
    (DEMO, False, 640, 640, 337), (DEMO, False, 512, 1024, 380), (DEMO, False, 1024, 1024, 712),
    (PUBLISHED, False, 256, 256, 150), (PUBLISHED, False, 384, 384, 311),
    (PUBLISHED, False, 512, 512, 512), (PUBLISHED, False, 768, 768, 1113),
    (PUBLISHED, False, 1024, 1024, 1765), (DEMO, True, 256, 256, 200),
    (DEMO, True, 384, 384, 849), (DEMO, True, 448, 448, 1448), (DEMO, True, 512, 512, 2381)]


@pytest.mark.parametrize(("config", "stock", "height", "width", "measured"), MEASURED)
def test_the_estimate_is_what_was_measured(config, stock, height, width, measured) -> None:
    estimate = step_bytes(config, height, width, stock=stock) / MIB
    assert 0.97 * measured <= estimate <= 1.35 * measured


def test_standard_operators_hold_attention_whole() -> None:
    engine = FakeEngine()
    packed = engine.step_bytes(512, 512)
    engine.kernel = "stock"
    assert engine.step_bytes(512, 512) > packed + 2 * 4 * (64 * 64) ** 2


def test_work_grows_with_the_square_of_the_area_through_attention() -> None:
    assert step_work(DEMO, 1024, 1024) > 5 * step_work(DEMO, 512, 512)
    assert step_work(PUBLISHED, 512, 512) == pytest.approx(4.0 * step_work(PUBLISHED, 256, 256),
                                                           rel=0.1)


def test_auto_is_in_tiles_where_attention_would_take_too_long() -> None:
    """Time then grows with the area, for the network of a stranger too."""
    def plan(config: NetworkConfig, side: int, tile: Tile = "auto") -> TilePlan:
        return choose((side, side), tile, 1 << 40, None, config.size_multiple,
                      functools.partial(step_work, config), lambda height, width: 1)

    large = NetworkConfig(inner_channel=8, norm_groups=1, channel_mults=(1,))  # the middle's map
    for config, whole in ((PUBLISHED, True), (DEMO, True), (large, False)):
        assert plan(config, 512).whole and plan(config, 1024).whole == whole
        assert plan(config, 1024, None).whole
    with pytest.raises(CheckpointError, match=r"attn_res=\[64\]: attention .* than 4000 times"):
        NetworkConfig(inner_channel=8, channel_mults=(1,), norm_groups=1, attn_res=(64,),
                      image_size=64, res_blocks=16)


@pytest.mark.parametrize(("channels", "dtype", "alpha"), [(3, np.uint8, True),
                                                          (1, np.uint16, False)])
def test_memory_does_not_grow_with_the_float_image(channels, dtype, alpha) -> None:
    class Idle(FakeEngine):
        def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
            return np.zeros_like(noisy)

    engine = Idle(timesteps=(0,))
    image = Image(np.zeros((1500, 200, channels), dtype),
                  np.zeros((1500, 200), dtype) if alpha else None)
    result = 3000 * 400 * (channels + alpha) * np.dtype(dtype).itemsize
    tracemalloc.start()
    try:
        found = engine.upscale_image(image, tile=256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.pixels.shape == (3000, 400, channels)
    # A tile's loop holds some fifteen maps of three planes; the float image would have 14 MB each.
    assert peak - result < 15 * 12 * 256 * 256 + 2 * 12 * 256 * 400 + 2 * MIB


def test_a_blender_yields_every_row_once() -> None:
    plan = plan_tiles((500, 300), 128, 48, 8, lambda height, width: 1)
    whole = np.random.default_rng(0).random((3, plan.rows.padded, plan.columns.padded), np.float32)
    blender, found, next_row = Blender(plan), np.empty((3, 500, 300), np.float32), 0
    for row, top in enumerate(plan.rows.starts):
        for column, left in enumerate(plan.columns.starts):
            blender.add(row, column, whole[:, top:top + 128, left:left + 128])
        for start, rows in blender.finish(row):
            assert start == next_row
            next_row += rows.shape[1]
            found[:, start:next_row] = rows
    assert next_row == 500
    np.testing.assert_allclose(found, whole[:, :500, :300], atol=1e-6)


def test_seams_are_seen() -> None:
    plan = plan_tiles((300, 300), 128, 32, 8, lambda height, width: 1)
    whole = np.random.default_rng(1).random((3, 300, 300)).astype(np.float32) / 10
    assert seam_energy(whole, whole, plan).excess == 0
    tiled = whole.copy()
    border = sum(plan.columns.ramps[0]) // 2
    tiled[:, :, border:] += 0.1  # an edge where the first column of tiles ends
    found = seam_energy(tiled, whole, plan)
    assert found.excess > 0.05 and found.step == pytest.approx(0.1, rel=0.01)
    both = found + Seams(rest=1.0, rest_whole=1.0)
    assert both.step == found.step and both.border == found.border


def test_the_tool_finds_no_seams_where_none_are() -> None:
    path = Path(__file__).parents[2] / "tools" / "seams.py"
    spec = importlib.util.spec_from_file_location("seams_tool", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    photo = Path(__file__).parents[2] / "training" / "photos" / "china.jpg"
    for name, pixels in tool.images(96, [str(photo)]):
        assert min(pixels.shape[:2]) >= 96 and pixels.shape[2] == 3
        found = tool.compare(Local(), pixels, 64, 24, 2, {})
        assert found.startswith("tile   64, overlap  24: borders"), name
        assert abs(float(found.split("borders")[1].split("%")[0])) < 0.02, name
