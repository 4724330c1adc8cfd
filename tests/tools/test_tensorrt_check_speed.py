"""tools/tensorrt_check: what its times, ratios, builds and bytes are of, by engines of given
speeds."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest

from bidiff_deploy.engines.tensorrt.build import builder as tensorrt_builder
from bidiff_deploy.errors import EngineError
from tools.checks import cuda_operators
from tools.tensorrt_check import building, speed, table

OPTIONS = {"size": 8, "steps": 5, "repeats": 3, "batches": [1, 2], "device": 0, "network": "tiny"}
# Milliseconds of a step by variant and precision; a captured loop takes 1 ms and a half of its
# steps' time, other loops 2 ms and all of it.
SPEEDS = {("plugin", "exact"): 3.0, ("plugin", "half"): 2.0, ("dense", "half"): 3.0,
          ("dense-int8", "half"): 4.0, (None, "half"): 5.0}


@pytest.fixture
def bench(monkeypatch):
    """Runs the part with engines of these speeds, those ``missing`` apart, which raise after
    ``fails`` rounds; returns its result and what was timed."""
    def run(missing: tuple = (), fails: dict | None = None, **changed: object):
        ran: list[tuple] = []

        def begin(network, variant, precision, *_):
            def measure(kind: str, milliseconds: float) -> float:
                ran.append((variant, precision, kind))
                if ran.count(ran[-1]) > (fails or {}).get((variant, precision), 1000):
                    raise EngineError("the GPU fell off the bus")
                return milliseconds

            if (variant, precision) in missing:
                raise EngineError(f"{variant} is not installed")
            step = SPEEDS[variant, precision]
            return {kind: partial(measure, kind, time) for kind, time in (
                ("step", step), ("loop", 1 + 5 * step / 2), ("stepwise", 2 + 5 * step))}, "it"

        monkeypatch.setattr(speed, "_begin", begin)
        return speed.speed("full", {**OPTIONS, **changed}), ran
    return run


def table_of(**found: dict) -> str:
    return table.to_text({"parts": {name.replace("_", "-"): part for name, part in found.items()}})


def test_medians_and_ratios_of_candidates_that_take_turns(bench):
    found, ran = bench()
    assert ran[:len(ran) // 2] == [(*name, kind) for name in SPEEDS for kind in speed.KINDS] * 3
    assert set(found["batches"]) == {"1", "2"} and "reason" not in found
    entry = found["batches"]["1"]
    assert entry["candidates"]["plugin float16"]["step"] == {"ms": 2, "spread": 0}
    assert set(entry["ratios"]) == set(entry["candidates"]) - {"plugin float16"}
    assert entry["ratios"]["dense float16"]["loop"]["median"] == pytest.approx(8.5 / 6)
    assert entry["ratios"]["dense int8"]["stepwise"]["max"] == pytest.approx(22 / 12)
    assert entry["ratios"]["onnxruntime-cuda float16"]["step"]["min"] == pytest.approx(2.5)
    text = table_of(speed_network={"ok": True, **found})
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "full, batch 2, 8x8, loop of 5 steps, ms; x: as long as plugin float16" in lines
    assert "dense float16 3.000 1.50 8.500 1.42 17.000 1.42 0 %" in lines
    assert "plugin float16 2.000 6.000 12.000 0 %" in lines
    assert ("ok speed-network: batch 1: the plugin's loop is 1.42x as fast as dense float16 "
            "(1.42 to 1.42; the aim is 1.5x); batch 2:") in " ".join(text.split())
    assert max(map(len, text.splitlines()[:-1])) <= 110


@pytest.mark.parametrize("variant", ["plugin", None])
def test_an_engine_is_warm_before_it_is_timed(monkeypatch, variant):
    """The second loop is captured, the third launched."""
    engine, opened = MagicMock(timesteps=(800, 400)), Mock()
    engine.__enter__.return_value = opened.load.return_value = opened.load_bundle.return_value = (
        engine)
    for name in ("network_bundle", "time_steps", "load", "load_bundle"):
        monkeypatch.setattr(speed, name, getattr(opened, name))
    with contextlib.ExitStack() as stack:
        runs, _ = speed._begin("tiny", variant, "half", 2, Path(), OPTIONS, stack)
        assert [one.kwargs["on_step"] is None for one in engine.sample.call_args_list] == [
            True] * 3 + [False] * 3
        monkeypatch.setattr(speed, "time", Mock(perf_counter=Mock(side_effect=(1.0, 1.25))))
        assert set(runs) == set(speed.KINDS) and runs["loop"]() == 250
    engine.__exit__.assert_called_once()
    opened.time_steps.assert_called_once_with(engine, 800, 2, 8, 5)
    assert opened.load.called == (variant is not None) != opened.load_bundle.called


def test_what_is_missing_or_fails_is_reported_and_the_rest_is_timed(bench):
    assert bench(missing=((None, "half"),))[0].get("ok", True)
    found, _ = bench(missing=((None, "half"), ("dense", "half")), fails={("dense-int8", "half"): 1})
    entry = found["batches"]["1"]
    assert set(entry["ratios"]) == {"plugin float32"}
    assert {name: one["reason"] for name, one in entry["candidates"].items() if not one["ok"]} == {
        "dense float16": "dense is not installed", "dense int8": "the GPU fell off the bus",
        "onnxruntime-cuda float16": "None is not installed"}
    # What was to be compared is not, so the part is made again.
    text = table_of(speed_network=found)
    assert "dense float16               dense is not installed" in text
    assert "NOT DONE speed-network: batch 1: dense float16: dense is not installed; batch 2" in text
    found, _ = bench(missing=tuple(SPEEDS))
    assert found["batches"]["1"]["ratios"] == {} and not found["ok"]
    assert found["reason"].startswith("batch 1: plugin float16: plugin is not installed; batch 2")


def test_builds_start_with_an_empty_cache(monkeypatch, tmp_path):
    """Many steps take 1.5 times as long as one; each build sees a cache of its own."""
    caches = set()

    def build_plan(bundle, profile, *, variant, device, folder, overwrite):
        cache = Path(os.environ["XDG_CACHE_HOME"])
        assert cache.is_dir() and not (cache / "used").exists()
        (cache / "used").touch()
        caches.add(cache)
        if variant == "dense":
            raise EngineError("TensorRT has no memory left")
        seconds = 3.0 if len(bundle.timesteps) > 1 else 2.0
        return SimpleNamespace(info=SimpleNamespace(seconds=seconds, bytes=1000))

    monkeypatch.setattr(tensorrt_builder, "build_plan", build_plan)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found, dense = (building.build(one, OPTIONS) for one in (building.PLUGIN, building.DENSE))
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path) and len(caches) == 7
    assert found["times_one_step"] == 1.5 and "reason" not in found
    assert "times_one_step" not in dense and dense["reason"] == "TensorRT has no memory left"
    assert [(entry["variant"], entry["steps"], entry["ok"])
            for entry in found["plans"] + dense["plans"]] == [
        ("plugin", 5, True), ("plugin", 1, True), ("plugin", 5, True), ("dense", 5, False),
        ("dense-int8", 5, True)]
    text = table_of(build={**found, "ok": True}, build_dense=dense)
    assert "ok       build: many steps take 1.50x the time of one, within 2x" in text
    assert "dense half                 5  TensorRT has no memory left" in text
    assert "2.50x the time of one, MORE THAN 2x" in table_of(
        build={**found, "ok": True, "times_one_step": 2.5})


def test_bytes_that_an_engine_takes(monkeypatch):
    """Opened, it has 100 bytes; a loop takes 40 more, and its graph another 7."""
    card = SimpleNamespace(free_memory=10_000)

    @contextlib.contextmanager
    def loaded(*given):
        left = iter((9_860, 9_853, 9_853))
        card.free_memory = 9_900
        yield SimpleNamespace(sample=lambda *_, **__: vars(card).update(free_memory=next(left)))
        card.free_memory = 10_000

    monkeypatch.setattr(cuda_operators, "Gpu", lambda device: contextlib.nullcontext(card))
    monkeypatch.setattr(building, "load", loaded)
    monkeypatch.setattr(building, "network_bundle", lambda *given: None)
    found = building.memory(OPTIONS)["engines"]
    assert card.free_memory == 10_000
    assert [entry["steps"] for entry in found] == [1, 5] * 4
    assert {(entry["opened_bytes"], entry["peak_bytes"]) for entry in found} == {(100, 147)}
    monkeypatch.setattr(building, "load", lambda *given: 1 / 0)
    assert building.memory(OPTIONS)["reason"] == "ZeroDivisionError: division by zero"
