"""model.py, served by a stand-in of Triton, and how it batches requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as numpy_arrays

from bidiff_deploy import BidiffError, EngineError, UsageError
from bidiff_deploy.serving.requests import Cancelled, Work, read_request
from bidiff_deploy.serving.triton import export_repository
from bidiff_deploy.serving.upscaler import BATCHED_PIXELS, Upscaler
from stand_ins import triton as stand_in
from support.fake_engine import FakeEngine
from support.seeds import examples
from support.serving_setup import Server, picture, request


def test_one_request(server, alone):
    image = picture(20, 33)
    [found] = server.ask({"image": image})
    assert found.shape == (1, 40, 66, 3)
    np.testing.assert_array_equal(found[0], alone(image[0]))
    assert ("info", ) == stand_in.Logger.lines[0][:1]
    assert "bidiff_x2: onnxruntime" in stand_in.Logger.lines[0][1]


def test_requests_of_equal_and_other_sizes_seeds_and_steps(server, alone):
    small, wide, large = picture(24, 24, 1), picture(13, 40, 2), picture(72, 64, 3)
    several = picture(24, 24, 4, count=3)
    answers = server.ask(
        {"image": small}, {"image": wide, "seed": [[7]]}, {"image": small, "seed": [[7]]},
        {"image": large}, {"image": several, "seed": [[1], [2], [3]]},
        {"image": small, "steps": [[1]]}, {"image": large, "seed": [7], "steps": [[2]]},
        {"image": several, "seed": np.array([[5]], np.uint8)})
    expected = [
        [alone(small[0])], [alone(wide[0], 7)], [alone(small[0], 7)], [alone(large[0])],
        [alone(image, seed) for image, seed in zip(several, (1, 2, 3))],
        [alone(small[0], steps=1)], [alone(large[0], 7, steps=2)],
        [alone(image, 5) for image in several]]
    for found, images in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(found, np.stack(images))
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
    ({"image": picture(8, 8), "steps": [[9]]}, "steps is 9, but there are 2 timesteps"),
    ({"image": picture(8, 8, count=2), "steps": [[1], [2]]}, "`steps` differs"),
])
def test_a_bad_request_fails_alone(server, alone, inputs, words):
    good = picture(8, 8, 5)
    first, bad, last = server.ask({"image": good}, inputs, {"image": good, "seed": [[3]]})
    np.testing.assert_array_equal(first[0], alone(good[0]))
    np.testing.assert_array_equal(last[0], alone(good[0], 3))
    assert bad[0] == stand_in.TritonError.INVALID_ARG and words in bad[1]
    assert "\n" not in bad[1] and not any(kind == "error" for kind, _ in stand_in.Logger.lines)


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


def test_cancelled_requests_cost_nothing(server, alone):
    image = picture(16, 16)
    gone, kept = server.ask(request(image=image, cancelled=(True,)), {"image": image})
    assert gone[0] == stand_in.TritonError.CANCELLED
    np.testing.assert_array_equal(kept[0], alone(image[0]))
    large = picture(72, 64, count=2)  # one by one, and asked before each
    [late] = server.ask(request(image=large, cancelled=(False, True)))
    assert late[0] == stand_in.TritonError.CANCELLED


def test_a_failing_engine_fails_one_request(server, monkeypatch):
    """The image at fault is found although it was in a batch."""
    good, bad = picture(16, 16), np.zeros((1, 16, 16, 3), np.uint8)
    predict = server.model.engine.predict

    def failing(noisy, condition, timestep):
        if (condition == 0).all(axis=(1, 2, 3)).any():
            raise EngineError("onnxruntime could not run a step")
        return predict(noisy, condition, timestep)

    monkeypatch.setattr(server.model.engine, "predict", failing)
    first, failed, last = server.ask({"image": good}, {"image": bad}, {"image": good})
    np.testing.assert_array_equal(first, last)
    assert failed == (stand_in.TritonError.INTERNAL, "onnxruntime could not run a step")
    assert ("error", "EngineError: onnxruntime could not run a step") in stand_in.Logger.lines

    monkeypatch.setattr(server.model.engine, "predict", lambda *_: 1 / 0)
    [crashed] = server.ask({"image": good})
    assert crashed == (stand_in.TritonError.INTERNAL,
                       "the server failed (ZeroDivisionError); see its log")

    def starved(*_):
        raise MemoryError

    monkeypatch.setattr(server.model.engine, "predict", starved)
    [hungry] = server.ask({"image": good})
    assert hungry[0] == stand_in.TritonError.INTERNAL and "not enough memory" in hungry[1]


def test_finalize_closes_the_engine(repository, monkeypatch):
    running = Server(repository, monkeypatch)
    running.model.finalize()  # a model that never opened
    with running:
        pass
    assert running.model.engine.closed
    running.model.finalize()
    [answer] = running.ask({"image": picture(8, 8)})
    assert answer[0] == stand_in.TritonError.INTERNAL and "closed" in answer[1]


@pytest.mark.parametrize(("parameters", "match"), [
    ({"backend": "abacus"}, "backend 'abacus' is not known"), ({"threads": "many"}, "many"),
    ({"tile": "7"}, "tile is 7"), ({"memory": "5"}, "memory")])
def test_a_bad_parameter_is_reported_at_loading(repository, monkeypatch, parameters, match):
    with pytest.raises(stand_in.TritonModelException, match=f"bidiff_x2: .*{match}"):
        Server(repository, monkeypatch, **parameters).__enter__()


def test_a_damaged_bundle_is_reported_at_loading(bundle, tmp_path, monkeypatch):
    export_repository(bundle, tmp_path / "repo", name="broken")
    with open(tmp_path / "repo" / "broken" / "1" / "bundle" / "weights.bin", "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(stand_in.TritonModelException, match="is not the file that was exported"):
        Server(tmp_path / "repo", monkeypatch).__enter__()


def test_instances_share_cores_and_memory(bundle, tmp_path, monkeypatch):
    export_repository(bundle, tmp_path / "repo", instances=64)
    with Server(tmp_path / "repo", monkeypatch) as running:
        assert running.model.engine.threads == 1
        assert 0 < running.model.upscaler.memory
    export_repository(bundle, tmp_path / "repo", instances=1, overwrite=True)
    with Server(tmp_path / "repo", monkeypatch) as running:
        assert running.model.upscaler.memory is None and running.model.upscaler.tile == "auto"


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
    gone = read_request(picture(8, 8), max_pixels=64, max_batch=1, cancelled=lambda: True)
    first, second = Upscaler(FakeEngine()).run([refusal, gone])
    assert first is refusal and isinstance(second, Cancelled)
