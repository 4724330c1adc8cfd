"""Tiles and engines that a plan gives, and what is said where none does, without a GPU."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest

from bidiff_deploy import EngineError, UsageError
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.run import noise_predictor as backend
from bidiff_deploy.networks.bi_diffsr.memory import cuda_step_bytes
from support.tensorrt_building import info


def engine_with(bundle: Path, *profiles: Profile,
                free: int = 1 << 60) -> backend.TensorRtNoisePredictor:
    """An engine that has plans but opens none: what it says needs no GPU."""
    opened = open_bundle(bundle)
    engine = backend.TensorRtNoisePredictor.__new__(backend.TensorRtNoisePredictor)
    super(backend.TensorRtNoisePredictor, engine).__init__(opened, StepGraphs(opened))
    vars(engine).update(_variant="plugin", _device_id=0, _free=free, _refused=[], _stale=[],
                        _gpu=None, _plans=[
        SimpleNamespace(path=Path(f"{index}.plan"), info=info(profile, precision="float32"))
        for index, profile in enumerate(profiles)])
    return engine


def refusal(engine: backend.TensorRtNoisePredictor, *arguments, **options) -> str:
    with pytest.raises((EngineError, UsageError)) as error:
        engine.tile_plan(*arguments, **options)
    return str(error.value)


def ranged(low: int, high: int, batch: int = 1) -> Profile:
    return Profile((1, low, low), (1, low, low), (batch, high, high))


def static(height: int, width: int) -> Profile:
    return Profile(*[(1, height, width)] * 3)


def test_tiles_are_shapes_that_a_plan_runs(tiny):  # whose scale is 4
    for profiles, size, tile, expected in (
            ([ranged(64, 512)], (100, 60), "auto", (1, 400, 240)),  # whole
            ([ranged(64, 512)], (200, 150), "auto", (4, 512, 512)),  # too long: largest tiles
            ([ranged(64, 512)], (200, 50), "auto", (2, 512, 200)),  # one tile wide
            ([ranged(64, 200)], (100, 100), "auto", (9, 200, 200)),  # no power of two
            ([static(256, 256)], (100, 100), "auto", (4, 256, 256)),
            ([static(256, 256), static(400, 400)], (100, 100), "auto", (1, 400, 400)),
            ([static(256, 256), ranged(64, 384)], (100, 100), "auto", (4, 384, 384)),
            ([static(400, 600)], (100, 150), "auto", (1, 400, 600)),  # whole, though no square
            ([static(1200, 1600)], (300, 400), "auto", (1, 1200, 1600)),  # as no tile is there
            ([ranged(64, 512)], (100, 60), 128, (12, 128, 128)),
            ([ranged(64, 512)], (100, 60), None, (1, 400, 240)),
            ([static(128, 128)], (32, 32), 64, None), ([static(128, 128)], (20, 20), "auto", None),
            ([ranged(64, 128)], (60, 60), None, None), ([ranged(64, 128)], (60, 60), 256, None)):
        engine = engine_with(tiny, *profiles)
        if expected is None:
            assert re.match(rf"no plugin plan in float32 runs batch x height x width .*, only "
                            rf"{profiles[0].label}; build one with `bidiff-deploy build .* --size",
                            refusal(engine, *size, tile))
            continue
        plan = engine.tile_plan(*size, tile)
        assert (plan.count, plan.tile_height, plan.tile_width) == expected


def test_what_to_build_for_a_photo_of_any_size(tiny):
    """The whole of what is run whole, and tiles of the usual size for what is not."""
    engine = engine_with(tiny, static(64, 96))
    for size, wanted, overlap in (
            ((33, 40), "136x160", None), ((1, 1), "8x8", None), ((300, 451), "256x256", None),
            ((20, 3000), "80x12000", None), ((90, 3000), "256x256", None),
            ((300, 451), "512x512", 256)):
        found = refusal(engine, *size, overlap=overlap)
        assert f" 1x{wanted}, only 1x64x96; " in found and f" --size {wanted}`" in found
    # A plan of many shapes is the better advice for photos, unless there is one, or it has not it.
    for profile, size, advice in ((static(64, 96), (33, 40), True), (static(64, 96), (1, 1), False),
                                  (ranged(64, 128), (33, 40), False)):
        found = refusal(engine_with(tiny, profile), *size, None)
        assert found.endswith("x160`, or without --size for all shapes from 64x64 to "
                              "512x512") == advice, found


def test_tiles_and_the_memory(tiny):
    """The least memory of a plan is what its tile needs, and the rows of pixels under way."""
    config = open_bundle(tiny).config

    def needed(side: int) -> int:
        return cuda_step_bytes(config, side, side, half=False) + 12 * side * 800

    engine = engine_with(tiny, ranged(64, 512), free=needed(288) * 10 // 9 + 10)
    for memory, side in ((None, 288), (needed(264), 264), (needed(1024), 512)):
        assert engine.tile_plan(200, 200, memory=memory).tile_height == side
    assert "is too little" in refusal(engine, 200, 200, memory=1 << 20)
    # Plans of larger tiles alone: the least that there is, unless memory was named.
    engine = engine_with(tiny, static(400, 400), static(512, 512), free=needed(288))
    for overlap in (None, 200):
        assert engine.tile_plan(200, 200, overlap=overlap).tile_height == 400
    assert "is too little for every plan" in refusal(engine, 200, 200, memory=needed(288))


def test_options_without_an_image_and_batches_and_sides_that_plans_run(tiny):
    engine = engine_with(tiny, static(256, 256))
    for tile in ("auto", 256, 128, None):
        engine.check_tiles(tile, None)
    with pytest.raises(UsageError, match="but memory is 1 MiB"):
        engine.check_tiles(256, 1 << 20)
    engine = engine_with(tiny, ranged(64, 128, batch=4), static(64, 64))
    assert [engine._batch_that_runs(*shape) for shape in (
        (8, 64, 64), (3, 64, 64), (8, 256, 64))] == [4, 3, 0]
    assert engine._side_that_fits(512) == 128 and engine._side_that_fits(64) is None


@pytest.mark.parametrize("version, profile, count", [
    ((9, 3), ranged(64, 128), 2), ((10, 0), ranged(64, 128), 1), ((8, 5), static(64, 64), 1)],
    ids=str)
def test_shapes_that_need_an_engine_each(tiny, monkeypatch, version, profile, count):
    """Before TensorRT 10 contexts of an engine cannot share a profile of many shapes; an engine
    whose shape was given back serves the next."""
    engine = engine_with(tiny, profile)
    engine._api, engine._open = SimpleNamespace(version=version), OrderedDict()
    monkeypatch.setattr(engine, "_content", lambda plan: b"")
    monkeypatch.setattr(backend, "OpenPlan", lambda *arguments: object())
    for side in (64, 72):
        opened = engine._opened(engine._plans[0], (1, side, side))
        engine._steps[(1, 3, side, side)] = SimpleNamespace(opened=opened)
    assert len(engine._open) == count
    first = engine._steps.pop((1, 3, 64, 64)).opened
    assert engine._opened(engine._plans[0], (1, 80, 80)) is first and len(engine._open) == count
