"""The TensorRT backends on a stand-in for TensorRT that computes, on the emulated driver: steps,
loops as graphs, shapes and threads."""

from __future__ import annotations

import re
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from bidiff_deploy import load_bundle
from bidiff_deploy.engines import TENSORRT
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.run.context import OpenPlan
from bidiff_deploy.engines.tensorrt.run.device import Graph
from bidiff_deploy.engines.tensorrt.run.step import TensorRtStep
from stand_ins import tensorrt as tensorrt_stand_in
from support.by_threads import by_threads
from support.reference_cases import snr
from support.tensorrt_building import NEW, OLD, build, static
from support.tensorrt_names import VERSIONS

RANGE = Profile((1, 8, 8), (1, 16, 16), (2, 24, 24))


@pytest.fixture(scope="module", params=[(OLD, "half"), (NEW, "exact")], ids="-".join)
def built(request, reference, tmp_path_factory):
    """Plans of one shape and of many, in the oldest and newest version."""
    version, precision = request.param
    data = reference.arrays("forward_tiny")
    bundle, folder = reference.bundle("tiny", data["timesteps"][::2], precision), \
        tmp_path_factory.mktemp("plans")
    with tensorrt_stand_in.in_process(folder, version,
                                      BIDIFF_TENSORRT_PLANS=str(folder / "plans")) as trt:
        build(bundle, static(1, *data["noisy"].shape[2:]), RANGE)
        yield SimpleNamespace(bundle=bundle, version=version, exact=precision == "exact", data=data,
                              trt=trt, noisy=data["noisy"][:1], condition=data["condition"][:1],
                              small=data["condition"][:1, :, :8, :8],
                              times=[int(t) for t in data["timesteps"][::2]])


@pytest.fixture
def counts(built, monkeypatch):
    """How often steps are put on the stream, by hand or into a graph, and graphs are launched; and
    the threads that do it."""
    found = SimpleNamespace(of=Counter(), threads=set())

    def count(owner, name):
        real = getattr(owner, name)

        def counted(*arguments):
            found.of[name] += 1
            found.threads.add(threading.get_ident())
            return real(*arguments)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in ((TensorRtStep, "_enqueue"), (Graph, "launch"), (OpenPlan, "context"),
                        (built.trt.IExecutionContext, "set_tensor_address")):
        count(owner, name)

    def take(call, *arguments, **options):
        """The result of a call, and how often it put steps on the stream and launched graphs."""
        before = found.of.copy()
        result = call(*arguments, **options)
        return result, [found.of[name] - before[name] for name in ("_enqueue", "launch")]

    found.take = take
    return found


@pytest.fixture
def engine(built, counts):
    with load_bundle(built.bundle, backend="tensorrt") as opened:
        yield opened
    # All of the driver is the engine's thread's.
    assert len(counts.threads) == 1 and threading.get_ident() not in counts.threads


def test_each_step_matches_the_reference(built, engine, counts):
    def steps():
        for expected, time in zip(built.data["prediction"][::2], built.times, strict=True):
            found = engine.predict(built.noisy, built.condition, time)
            assert found.dtype == np.float32
            # float16: as on the other backend of a GPU
            assert snr(expected[:1], found) >= (115 if built.exact else 13)

    # The first runs, the second is captured and launched, the third is launched.
    assert counts.take(steps)[1] == [2, 2]
    assert engine.precision == ("float32" if built.exact else "float16")
    assert engine.kernel == "tensorrt" and re.fullmatch(
        rf"tensorrt {built.version}\.\d+, emulated sm_75, plugin, by cuda-python [\d.]+, "
        rf"{engine.precision}", engine.description)


def test_steps_repeat_at_other_shapes_in_batches_and_from_threads(built, engine, counts):
    noisy, condition, first = built.noisy, built.condition, built.times[0]
    least = [engine.predict(noisy[..., :8, :8], condition[..., :8, :8], first) for _ in range(2)]
    alone = engine.predict(noisy, condition, first)  # whose activations are larger, and so move
    for one in (least[1], engine.predict(noisy[..., :8, :8], condition[..., :8, :8], first)):
        np.testing.assert_array_equal(one, least[0])
    for height, width in ((8, 8), (8, 12), (12, 8), (8, 16), (16, 8)):  # more than are kept
        engine.predict(noisy[..., :height, :width], condition[..., :height, :width], first)
    # TensorRT 8 takes one context at a time for a plan of many shapes, so each has an engine.
    assert len(engine._steps) == 4 and len(engine._open) <= (6 if built.version == OLD else 2)
    # As often as there are tensors of a context: none is moved once it is captured.
    assert counts.of["set_tensor_address"] == counts.of["context"] * (
        len(engine._rows.places) + 4) > 0
    np.testing.assert_array_equal(engine.predict(noisy, condition, first), alone)
    pair, both = (np.concatenate([one, one[..., ::-1]])[..., :8, :8] for one in (noisy, condition))
    np.testing.assert_array_equal(engine.predict(pair, both, first), np.concatenate([
        engine.predict(pair[i:i + 1].copy(), both[i:i + 1].copy(), first) for i in (0, 1)]))
    found = by_threads(lambda t: engine.predict(noisy, condition, t), [first] * 3)
    np.testing.assert_array_equal(found, np.concatenate([alone] * 3))


def test_a_loop_is_one_graph_from_its_second_time_on(built, engine, counts):
    steps: list = []
    stepwise = engine.sample(built.small, seed=5, on_step=lambda done, of: steps.append([done, of]))
    assert steps == [[1, 3], [2, 3], [3, 3]] and stepwise.dtype == np.float32
    assert 0 <= stepwise.min() and stepwise.max() <= 1
    for expected in ([3, 0], [3, 1], [0, 1]):
        again, ran = counts.take(engine.sample, built.small, seed=5)
        np.testing.assert_array_equal(again, stepwise)
        assert ran == expected
    with load_bundle(built.bundle, threads=1) as cpu:
        expected = cpu.sample(built.small, seed=5)
    assert snr(expected, stepwise) > (80 if built.exact else 3)
    # Other timesteps, factors and noise by the same graph; another number of steps has a graph of
    # its own, in the place of one that was.
    found = []
    for options in ({"steps": 2}, {"steps": 2, "start": 400}, {"steps": 1}):
        options = {"seed": 7, **options}
        found.append(engine.sample(built.small, **options, on_step=lambda done, of: None))
        for _ in range(2):
            engine.sample(built.small, **options)
        again, ran = counts.take(engine.sample, built.small, **options)
        np.testing.assert_array_equal(again, found[-1])
        assert ran == [0, 1]
    assert len(engine._steps[built.small.shape]._loops) == 2
    assert len({one.tobytes() for one in found}) == 3


@pytest.mark.parametrize("trt, backend, precision", [
    ("10.0.1", "tensorrt", "exact"), (OLD, "tensorrt-dense", "half"),
    *((version, "tensorrt-dense-int8", "half") for version in VERSIONS)], indirect=["trt"])
def test_every_variant_in_every_version(trt, backend, precision, reference):
    """Each name that a build and a run touch exists there: the stand-in has no others."""
    bundle = reference.bundle("tiny", [999, 400, 0], precision)
    noisy, condition = np.random.default_rng(3).random((2, 1, 3, 8, 16), np.float32)
    with load_bundle(bundle, threads=1) as cpu:
        expected = cpu.predict(noisy, condition, 999)
    build(bundle, static(1, 8, 16), variant=TENSORRT[backend], workspace=1 << 30)
    with load_bundle(bundle, backend=backend) as engine:
        found = [engine.predict(noisy, condition, 999) for _ in range(2)]
        assert f", {TENSORRT[backend]}, by " in engine.description
        loops = [engine.sample(condition, seed=1) for _ in range(2)]
    # float16: a flipped sign is a large part of a sum where channels are few.
    assert snr(expected, found[0]) > (100 if precision == "exact" else 12)
    for first, captured in (found, loops):
        np.testing.assert_array_equal(first, captured)
