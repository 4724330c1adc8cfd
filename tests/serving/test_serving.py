"""Requests, how they are batched, and the parameters of an instance, without a server.

What model.py does with them in NVIDIA's server is tested by `make nvidia` (tests/nvidia/).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as numpy_arrays

from bidiff_deploy import BidiffError, BundleError, EngineError, UsageError
from bidiff_deploy.serving.parameters import open_upscaler
from bidiff_deploy.serving.requests import Cancelled, Work, read_request
from bidiff_deploy.serving.upscaler import BATCHED_PIXELS, Upscaler
from support.fake_engine import FakeEngine
from support.seeds import examples
from support.served import picture


def test_requests_of_equal_and_other_sizes_seeds_and_steps(engine):
    def alone(image, seed=0, steps=None):
        return engine.upscale(image, seed, tile=None, steps=steps)

    small, wide, large = picture(24, 24, 1), picture(13, 40, 2), picture(72, 64, 3)
    several = picture(24, 24, 4, count=3)
    works = [(small, (0,), None), (wide, (7,), None), (small, (7,), None), (large, (0,), None),
             (several, (1, 2, 3), None), (small, (0,), 1), (large, (7,), 2)]
    answers = Upscaler(engine, max_batch=4, tile=None).run([Work(*work) for work in works])
    for (images, seeds, steps), answer in zip(works, answers, strict=True):
        np.testing.assert_array_equal(answer, np.stack([
            alone(image, seed, steps) for image, seed in zip(images, seeds, strict=True)]))
    assert (answers[0] != answers[2]).any() and (answers[0] != answers[5]).any()


@pytest.mark.parametrize(("inputs", "words"), [
    ({}, "no input `image`"),
    ({"image": picture(8, 8).astype(np.float32)}, "type float32; give uint8"),
    ({"image": picture(8, 8)[0]}, r"shape [8, 8, 3]"),
    ({"image": np.zeros((1, 8, 8, 4), np.uint8)}, "shape [1, 8, 8, 4]"),
    ({"image": np.zeros((1, 0, 8, 3), np.uint8)}, "shape [1, 0, 8, 3]"),
    ({"image": np.zeros((5, 8, 8, 3), np.uint8)}, "5 images; this model accepts at most 4"),
    ({"image": np.zeros((1, 65, 128, 3), np.uint8)},
     "128x65 pixels; this model accepts at most 8192"),
    ({"image": picture(8, 8), "seed": [[-1]]}, "`seed` is -1; it must be a whole number, from 0"),
    ({"image": picture(8, 8), "seed": [[1.5]]}, "`seed` has type float64"),
    ({"image": picture(8, 8), "seed": [[1], [2]]}, "2 values for 1 images"),
    ({"image": picture(8, 8), "steps": [[0]]}, "`steps` is 0; it must be a whole number, from 1"),
    ({"image": picture(8, 8, count=2), "steps": [[1], [2]]}, "`steps` differs")])
def test_what_is_wrong_with_a_request(inputs, words):
    tensors = {name: np.asarray(value) for name, value in inputs.items()}
    with pytest.raises(BidiffError) as refused:
        read_request(tensors.pop("image", None), **tensors, max_pixels=8192, max_batch=4)
    assert words in str(refused.value) and "\n" not in str(refused.value)


ARRAYS = numpy_arrays(
    st.sampled_from([np.uint8, np.int8, np.int64, np.uint64, np.float32, np.bool_, object]),
    array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4), fill=st.nothing())


@examples(200)
@given(st.none() | ARRAYS, st.none() | ARRAYS, st.none() | ARRAYS)
def test_any_tensors_are_work_or_a_sentence(image, seed, steps):
    try:
        work = read_request(image, seed, steps, max_pixels=9, max_batch=2)
    except BidiffError as error:
        assert "\n" not in str(error)
        return
    assert work.images.shape[0] == len(work.seeds) <= 2 and work.images.shape[3] == 3
    assert all(type(value) is int for value in (*work.seeds, work.steps or 1))


def cancelled_after(count):
    """A request that is cancelled after so many times of asking."""
    answers = iter([False] * count)
    return lambda: next(answers, True)


def test_cancelled_requests_cost_nothing():
    engine = FakeEngine()
    small, large = picture(16, 16), picture(72, 64, count=2)
    gone, kept, late = Upscaler(engine, max_batch=4).run([
        Work(small, (0,), 1, cancelled_after(0)), Work(small, (0,), 1),
        Work(large, (0, 0), 1, cancelled_after(1))])  # one by one, and asked before each
    assert isinstance(gone, Cancelled) and isinstance(late, Cancelled)
    assert kept.shape == (1, 32, 32, 3) and [shape[0] for _, shape in engine.calls] == [1, 1]


@pytest.mark.parametrize(("error", "kind", "words"), [
    (EngineError("onnxruntime could not run a step"), EngineError, "could not run"),
    (MemoryError(), EngineError, "not enough memory to upscale 16x16 pixels"),
    (ZeroDivisionError(), ZeroDivisionError, "")])
def test_a_failing_engine_fails_one_request(monkeypatch, error, kind, words):
    """The image at fault is found although it was in a batch."""
    engine = FakeEngine()
    predict = engine.predict

    def failing(noisy, condition, timestep):
        if (condition == 0).all(axis=(1, 2, 3)).any():
            raise error
        return predict(noisy, condition, timestep)

    monkeypatch.setattr(engine, "predict", failing)
    good, bad = picture(16, 16), np.zeros((1, 16, 16, 3), np.uint8)
    first, failed, last = Upscaler(engine, max_batch=4).run(
        [Work(image, (0,), None) for image in (good, bad, good)])
    np.testing.assert_array_equal(first, last)
    assert isinstance(failed, kind) and words in str(failed)


def test_small_images_run_as_a_batch_and_large_ones_do_not():
    engine = FakeEngine(default_start=60)
    side = int(BATCHED_PIXELS ** 0.5) // engine.scale
    run = Upscaler(engine, max_batch=3).run
    small = [Work(picture(side, side, n), (n,), 1) for n in range(4)]
    found = run(small)
    assert [shape[0] for _, shape in engine.calls] == [3, 1]
    large = Work(picture(side + 8, side, count=2), (0, 1), 1)
    engine.calls.clear()
    assert run([large])[0].shape == (2, 2 * side + 16, 2 * side, 3)
    assert [shape[0] for _, shape in engine.calls] == [1, 1]
    for work, image in zip(small, found, strict=True):
        np.testing.assert_array_equal(image, run([work])[0])
    engine.calls.clear()
    tiled = Upscaler(engine, max_batch=3, tile=64).run(small[:2])
    assert [shape[0] for _, shape in engine.calls] == [1] * len(engine.calls) and len(tiled) == 2


def test_an_answer_for_every_work():
    assert Upscaler(FakeEngine()).run([]) == []
    refusal = UsageError("no")
    first, second = Upscaler(FakeEngine()).run([refusal, Work(picture(8, 8), (0,), 99)])
    assert first is refusal and isinstance(second, UsageError) and "steps is 99" in str(second)


def opened(bundle, instances=1, **parameters):
    texts = {"threads": "auto", "backend": "onnxruntime", "tile": "auto", "memory": "auto",
             "max_pixels": "8192", **parameters}
    return open_upscaler(bundle, {
        "max_batch_size": 3, "instance_group": [{"count": instances}],
        "parameters": {key: {"string_value": value} for key, value in texts.items()}})


@pytest.mark.parametrize(("parameters", "match"), [
    ({"backend": "abacus"}, "backend 'abacus' is not known"), ({"threads": "many"}, "many"),
    ({"tile": "7"}, "tile is 7"), ({"memory": "5"}, "memory")])
def test_a_bad_parameter_is_a_sentence(bundle, parameters, match):
    with pytest.raises((BidiffError, ValueError), match=match):
        opened(bundle, **parameters)
    with pytest.raises(BundleError, match="does not exist"):
        opened(bundle / "missing")


def test_instances_share_cores_and_memory(bundle):
    shared = opened(bundle, 64, tile="none")
    assert shared.engine.threads == 1 and 0 < shared.memory and shared.tile is None
    assert (shared.max_batch, shared.max_pixels) == (3, 8192)
    one = opened(bundle, tile="128", threads="1")
    assert one.memory is None and one.tile == 128 and one.engine.threads == 1
    for upscaler in (shared, one):
        upscaler.engine.close()
