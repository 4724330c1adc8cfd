"""What fails while an engine of the TensorRT backend is opened or runs, on the stand-in: every
sentence, that nothing is left behind, and that the engine runs on."""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from bidiff_deploy import BidiffError, load_bundle
from bidiff_deploy.engines.onnxruntime.cuda_session import device_memory
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.run.device import Device, open_device
from stand_ins.tensorrt import nodes
from support.tensorrt_building import build, static, versions

IMAGES = np.random.default_rng(0).random((2, 1, 3, 24, 24), np.float32)
FIRST = 999


def failing(**variables: str):
    return mock.patch.dict(os.environ, variables)


def sentence(call, alone: bool = False) -> str:
    with pytest.raises(BidiffError) as raised:
        call()
    assert not alone or raised.value.__context__ is None  # which would keep its buffers
    return str(raised.value)


def cut(height: int, width: int):
    """noisy, condition, time step"""
    return (*(image[..., :height, :width] for image in IMAGES), FIRST)


def free(device: int = 0) -> int:
    return device_memory(device)[0]


def ordinal(engine) -> int:
    """The GPU that an engine works on."""
    with engine._gpu.current():
        return int(nodes.call("cuCtxGetDevice"))


def test_a_failed_run_leaves_nothing_behind_and_the_engine_usable(trt, tiny):
    build(tiny, Profile((1, 8, 8), (1, 16, 16), (4, 24, 24)), static(1, 64, 64))
    before, memory = free(), "emulated sm_75 has no memory left for a step at"
    with load_bundle(tiny, backend="tensorrt") as engine:
        expected = {side: engine.predict(*cut(side, side)) for side in (8, 16)}
        # The smallest first, so that activations move while its graphs are kept.
        sample = engine.sample(cut(8, 8)[1], seed=1)
        for (height, width), variables, begins, says in (
                ((8, 16), {"BIDIFF_EMULATED_FAIL": "cuMemAlloc=2"},
                 f"{memory} 16x8, which needs about", "cuMemAlloc: "),
                ((16, 8), {"BIDIFF_STAND_IN_FAIL": "context"}, f"{memory} 8x16, which needs",
                 "no execution context: Error Code 2"),
                ((8, 24), {"BIDIFF_STAND_IN_FAIL": "enqueue"},
                 "tensorrt could not run a step at 24x8 on emulated", "illegal memory"),
                ((16, 16), {"BIDIFF_EMULATED_FAIL": "cuMemcpyHtoDAsync=719"},
                 "tensorrt could not run a step at 16x16", "cuMemcpyHtoDAsync: CUDA_ERROR_L"),
                ((8, 8), {"BIDIFF_EMULATED_FAIL": "cuGraphLaunch=1"},
                 "tensorrt could not run a step at 8x8", "cuGraphLaunch: CUDA_ERROR_INV")):
            with failing(**variables):
                text = sentence(partial(engine.predict, *cut(height, width)), alone=True)
            assert text.startswith(begins) and says in text, text
            assert (1, 3, height, width) not in engine._steps  # no buffers
            # What a process does not recover from on a GPU.
            assert text.endswith("; restart the program") == (
                "illegal" in says or "HtoD" in says), text
            for side in expected:
                for _ in range(2):
                    np.testing.assert_array_equal(engine.predict(*cut(side, side)), expected[side])
        with failing(BIDIFF_STAND_IN_FAIL="enqueue"):
            assert "could not run a step at 8x8" in sentence(
                lambda: engine.sample(cut(8, 8)[1], seed=1))
        for _ in range(3):
            np.testing.assert_array_equal(engine.sample(cut(8, 8)[1], seed=1), sample)
        assert "no plugin plan in float32 runs batch x height x width 1x32x32, only" in sentence(
            lambda: engine.predict(*np.zeros((2, 1, 3, 32, 32), np.float32), FIRST))
    assert free() == before


def test_without_captured_graphs(trt, tiny, monkeypatch):
    """Where something invalidates the capture, steps and loops are equal without; a warning says so
    once an engine."""
    build(tiny, static(1, 8, 8))
    capture = Device.capture
    monkeypatch.setattr(Device, "capture", lambda self, work: capture(
        self, lambda: (work(), self.synchronise())))
    with load_bundle(tiny, backend="tensorrt") as engine, pytest.warns(
            RuntimeWarning, match=r"the steps cannot be captured as a CUDA graph \(\w+: CUDA_ERROR_"
                                  r"STREAM_CAPTURE_\w+.*\); running without") as caught:
        steps = [engine.predict(*cut(8, 8)) for _ in range(3)]
        loops = [engine.sample(cut(8, 8)[1], seed=1) for _ in range(3)]
    assert len(caught) == 1
    for one, other in zip((*steps[1:], *loops[1:]), (steps[0],) * 2 + (loops[0],) * 2):
        np.testing.assert_array_equal(one, other)


@versions("10.0.1")
@pytest.mark.parametrize("binding", ["cuda-python", "pycuda", "pycuda and cuda-python"])
def test_by_each_binding_on_the_second_gpu_and_never_closed(trt, tiny, monkeypatch, capfd, recwarn,
                                                            binding):
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("cuda", "cuda.bindings") * ("cuda-python" not in binding) + (
            "pycuda",) * ("pycuda" not in binding):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "stand_ins" / "pycuda"))
    build(tiny, static(1, 8, 8), device=1)
    before = free(1)
    with load_bundle(tiny, backend="tensorrt", device=1) as engine:
        names = engine.description.partition(", by ")[2].partition(",")[0]
        assert [word for word in names.split() if not word[0].isdigit()] == binding.split()
        first = engine.predict(*cut(8, 8))
        np.testing.assert_array_equal(engine.predict(*cut(8, 8)), first)
        for function, says in (("cuMemcpyHtoDAsync", "has no memory left for a step at 8x8"),
                               ("cuStreamSynchronize", "cuStreamSynchronize: ")):
            with failing(BIDIFF_EMULATED_FAIL=f"{function}=2"):
                assert says in sentence(partial(engine.predict, *cut(8, 8)))
        loop = engine.sample(cut(8, 8)[1], seed=1, on_step=lambda done, of: None)
        for _ in range(2):
            np.testing.assert_array_equal(engine.sample(cut(8, 8)[1], seed=1), loop)
    assert free(1) == before
    engine = load_bundle(tiny, backend="tensorrt", device=1)
    thread = engine._thread
    engine.predict(*cut(8, 8))
    assert free(1) < before and thread.call(ordinal, engine) == 1
    with pytest.raises(BidiffError, match="^GPU 99 cannot be used: cuDeviceGet: "):
        thread.call(open_device, 99)
    del engine
    gc.collect()
    thread._pool.shutdown()
    assert free(1) == before
    # pycuda's memory is freed by the thread that its context belongs to.
    assert "out-of-thread" not in capfd.readouterr().out
    assert {str(one.message).partition("; ")[2] for one in recwarn} == (
        {"running without, which is slower; pip install cuda-python"} if binding == "pycuda"
        else set())


def test_what_opening_is_refused_with(trt, tiny, place):
    def refused() -> str:
        return sentence(lambda: load_bundle(tiny, backend="tensorrt"))

    before = free()
    assert "--backend tensorrt --size 256x256`" in refused()
    build(tiny, static(1, 16, 16))
    load_bundle(tiny, backend="tensorrt").close()
    (sidecar,) = place.glob("*.json")
    text = sidecar.read_text()
    sidecar.write_text(text.replace("  75\n", "  87\n"))
    assert "was built on emulated sm_75 (sm_87), but this GPU is" in refused()
    sidecar.write_text(text)
    for variables, says in (
            ({"BIDIFF_STAND_IN_FAIL": "deserialize"}, "could not be opened: Error Code 2: OutOf"),
            ({"BIDIFF_EMULATED_FAIL": "cuStreamCreate=2"},
             "GPU 0 cannot be used: cuStreamCreate: CUDA_ERROR_OUT_OF_MEM"),
            ({"BIDIFF_EMULATED_FAIL": "cuMemAlloc=2"}, "emulated sm_75 cannot be used: cuMemAlloc: "
             "CUDA_ERROR_OUT_OF_MEMORY (CUDA_ERROR_OUT_OF_MEMORY); close other programs"),
            ({"BIDIFF_TENSORRT_PLUGIN": "/nonexistent/plugin.so"}, "/nonexistent/plugin.so")):
        with failing(**variables):
            assert says in refused()
    # One that fits next to one that does not.
    build(tiny, static(1, 24, 24))
    sidecar.write_text(text.replace('"tensorrt": "', '"tensorrt": "9.'))
    with load_bundle(tiny, backend="tensorrt") as engine:
        engine.predict(*cut(24, 24))
        with failing(BIDIFF_EMULATED_FAIL="cuCtxPushCurrent=700"):
            assert "could not run a step at 16x16 on emulated sm_75: cuCtxPushCurrent: CUDA_ERROR" \
                in sentence(lambda: engine.predict(*cut(16, 16)))
        assert "was built by TensorRT 9.10.3" in sentence(lambda: engine.predict(*cut(16, 16)))
    # The stale one would take less memory than one that is for many shapes.
    build(tiny, Profile((1, 8, 8), (1, 16, 16), (1, 32, 32)))
    with load_bundle(tiny, backend="tensorrt") as engine:
        engine.predict(*cut(16, 16))
    assert engine.description.startswith("tensorrt 10.3.0")  # though it is closed
    assert free() == before  # engines that could not be opened hold nothing
