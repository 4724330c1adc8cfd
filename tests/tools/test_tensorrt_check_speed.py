"""tools/tensorrt_check: what its times, ratios, builds and bytes are of, by engines on a clock that
only they move."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bidiff_deploy.engines.tensorrt.build import builder as tensorrt_builder
from bidiff_deploy.errors import EngineError
from tools.checks import cuda_operators, timing
from tools.tensorrt_check import building, speed, table

OPTIONS = {"size": 8, "steps": 5, "repeats": 3, "batches": [1, 2], "device": 0, "network": "tiny"}
# Seconds of a step by variant and precision; a captured loop takes 1 ms and a half of its steps'
# time, other loops 2 ms and all of it.
SPEEDS = {("plugin", "exact"): 0.003, ("plugin", "half"): 0.002, ("dense", "half"): 0.003,
          ("dense-int8", "half"): 0.004, (None, "half"): 0.005}


@pytest.fixture
def bench(monkeypatch):
    """Runs the part with engines of these speeds, those ``missing`` apart, which raise after
    ``fails`` loops; returns its result and what ran. Each is closed at the end."""
    def run(missing: tuple = (), fails: dict | None = None, **changed: object):
        clock, ran, opened = SimpleNamespace(now=0.0), [], []
        clock.perf_counter = lambda: clock.now

        @contextlib.contextmanager
        def engine(name):
            if name in missing:
                raise EngineError(f"{name[0]} is not installed")

            def spend(seconds: float) -> None:
                clock.now += seconds

            def sample(condition, noise, *, start, on_step=None):
                assert start is None and condition.shape == noise.shape
                ran.append((name, on_step is None))
                if ran.count(ran[-1]) > (fails or {}).get(name, 1000):
                    raise EngineError("the GPU fell off the bus")
                step = SPEEDS[name] * OPTIONS["steps"]
                spend(0.001 + step / 2 if on_step is None else 0.002 + step)

            def with_step(shape, action):
                assert shape[1:] == (3, 8, 8)
                return action(SimpleNamespace(load=lambda *images: None, latent=lambda: None,
                                              run=lambda row: spend(SPEEDS[name])))

            opened.append(name)
            yield SimpleNamespace(
                timesteps=(800, 400), description="an engine", sample=sample, _with_step=with_step,
                predict=lambda *given: None,
                _rows=SimpleNamespace(row=lambda timestep, factors: np.zeros(3, np.float32)))
            opened.remove(name)

        for name, value in {
                "network_bundle": lambda network, steps, folder, precision: precision,
                "load": lambda bundle, variant, shape, device: engine((variant, bundle)),
                "load_bundle": lambda bundle, backend, device: engine((None, bundle)),
                "time": clock}.items():
            monkeypatch.setattr(speed, name, value)
        monkeypatch.setattr(timing, "time", clock)
        found = speed.speed("full", {**OPTIONS, **changed})
        assert not opened
        return found, ran
    return run


def table_of(**found: dict) -> str:
    return table.to_text({"parts": {name.replace("_", "-"): part for name, part in found.items()}})


def test_medians_and_ratios(bench):
    found, _ = bench()
    assert set(found["batches"]) == {"1", "2"} and "reason" not in found
    entry = found["batches"]["1"]
    ours, ratios = entry["candidates"]["plugin float16"], entry["ratios"]
    assert ours["step"]["ms"] == pytest.approx(2) and ours["step"]["spread"] == pytest.approx(0)
    assert ours["loop"]["ms"] == pytest.approx(6) and ours["stepwise"]["ms"] == pytest.approx(12)
    assert set(ratios) == set(entry["candidates"]) - {"plugin float16"}
    assert ratios["dense float16"]["step"]["median"] == pytest.approx(1.5)
    assert ratios["dense float16"]["loop"]["median"] == pytest.approx(8.5 / 6)
    assert ratios["dense int8"]["stepwise"]["max"] == pytest.approx(22 / 12)
    assert ratios["onnxruntime-cuda float16"]["step"]["min"] == pytest.approx(2.5)
    text = table_of(speed_network={"ok": True, **found})
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "full, batch 2, 8x8, loop of 5 steps, ms; x: as long as plugin float16" in lines
    assert "dense float16 3.000 1.50 8.500 1.42 17.000 1.42 0 %" in lines
    assert "plugin float16 2.000 6.000 12.000 0 %" in lines
    assert ("ok speed-network: batch 1: the plugin's loop is 1.42x as fast as dense float16 "
            "(1.42 to 1.42; the aim is 1.5x); batch 2:") in " ".join(text.split())
    assert max(map(len, text.splitlines()[:-1])) <= 110


def test_candidates_take_turns_after_they_are_warm(bench):
    _, ran = bench(batches=[1])
    warm, timed = ran[:30], ran[30:]
    assert warm[:6] == [(("plugin", "exact"), True)] * 3 + [(("plugin", "exact"), False)] * 3
    assert timed == [(name, whole) for name in SPEEDS for whole in (True, False)] * 3


def test_what_is_missing_or_fails_is_reported_and_the_rest_is_timed(bench):
    found, _ = bench(missing=((None, "half"), ("dense", "half")))
    entry = found["batches"]["2"]
    assert set(entry["ratios"]) == {"plugin float32", "dense int8"}
    assert entry["candidates"]["onnxruntime-cuda float16"] == {
        "ok": False, "reason": "None is not installed"}
    # What was to be compared is not, so the part is made again.
    text = table_of(speed_network=found)
    assert "dense float16               dense is not installed" in text
    assert "NOT DONE speed-network: batch 1: dense float16: dense is not installed; batch 2" in text
    assert bench(missing=((None, "half"),))[0].get("ok", True)
    found, _ = bench(missing=(("plugin", "half"),))
    assert found["batches"]["1"]["ratios"] == {} and not found["ok"]
    found, _ = bench(missing=tuple(SPEEDS))
    assert found["reason"].startswith("batch 1: plugin float16: plugin is not installed; batch 2")
    found, _ = bench(fails={("dense-int8", "half"): 4}, batches=[1])  # after it was warm
    entry = found["batches"]["1"]
    assert entry["candidates"]["dense int8"]["reason"] == "the GPU fell off the bus"
    assert "dense int8" not in entry["ratios"] and "loop" in entry["candidates"]["plugin float16"]
    table_of(speed_demo={"ok": True, **found})


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
    found = building.build(building.PLUGIN, OPTIONS)
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path) and len(caches) == 4
    assert found["times_one_step"] == 1.5 and "reason" not in found
    dense = building.build(building.DENSE, OPTIONS)
    assert len(caches) == 7 and "times_one_step" not in dense and not dense["ok"]
    assert dense["reason"] == "TensorRT has no memory left"
    assert [(entry["variant"], entry["steps"], entry["ok"])
            for entry in found["plans"] + dense["plans"]] == [
        ("plugin", 5, True), ("plugin", 1, True), ("plugin", 5, True), ("dense", 5, False),
        ("dense-int8", 5, True)]
    done = {**found, "ok": True}
    text = table_of(build=done, build_dense=dense)
    assert "ok       build: many steps take 1.50x the time of one, within 2x" in text
    assert "dense half                 5  TensorRT has no memory left" in text
    assert "2.50x the time of one, MORE THAN 2x" in table_of(build={**done, "times_one_step": 2.5})


def test_bytes_that_an_engine_takes(monkeypatch):
    """Opened, it has 100 bytes; a loop takes 40 more, and its graph another 7."""
    card = SimpleNamespace(free_memory=10_000)

    @contextlib.contextmanager
    def loaded(*given):
        taken = [100, 40, 7, 0]

        def take(*arguments, **named):
            card.free_memory -= taken.pop(0)

        take()
        yield SimpleNamespace(sample=take)
        card.free_memory += 147

    monkeypatch.setattr(cuda_operators, "Gpu", lambda device: contextlib.nullcontext(card))
    monkeypatch.setattr(building, "load", loaded)
    monkeypatch.setattr(building, "network_bundle", lambda *given: None)
    found = building.memory(OPTIONS)
    assert card.free_memory == 10_000 and len(found["engines"]) == 8
    for entry in found["engines"]:
        assert (entry["opened_bytes"], entry["peak_bytes"]) == (100, 147)
    assert [entry["steps"] for entry in found["engines"][:2]] == [1, 5]
    monkeypatch.setattr(building, "load", lambda *given: 1 / 0)
    assert building.memory(OPTIONS)["reason"] == "ZeroDivisionError: division by zero"
