"""What ``tensorrt_on_cpu`` runs where something fails, and what it needs for that."""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from bidiff_deploy import BidiffError, load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.engines import TENSORRT
from bidiff_deploy.engines.onnxruntime.cuda_session import device_memory
from bidiff_deploy.engines.tensorrt.build.builder import build_plan
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.run.device import Device


@contextmanager
def failing(**variables: str):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update({name: before[name] for name in variables if name in before})


def told_by(call) -> list:
    """Kind and text of what a call raises, and whether the error holds another one."""
    try:
        call()
    except BidiffError as error:
        return [type(error).__name__, str(error), error.__context__ is None]
    return ["", "", True]


def static(*shape: int) -> Profile:
    return Profile(shape, shape, shape)


def build(path: str, *profiles: Profile, variant: str = "plugin") -> None:
    for profile in profiles:
        build_plan(open_bundle(path), profile, variant=variant, quiet=True)


def run_failures(path: str, folder: Path, out: dict, told: dict) -> None:
    """Everything that may fail while an engine is open, and that it runs on after each."""
    build(path, Profile((1, 8, 8), (1, 16, 16), (4, 24, 24)), static(1, 64, 64))
    random = np.random.default_rng(0)
    noisy, condition = random.random((2, 1, 3, 24, 24), np.float32)
    at = {side: (noisy[..., :side, :side], condition[..., :side, :side]) for side in (8, 16)}
    before = device_memory(0)[0]
    with load_bundle(path, backend="tensorrt") as engine:
        first = engine.timesteps[0]
        expected = {side: engine.predict(*images, first) for side, images in at.items()}
        # The smallest first, so that activations move while its graphs are kept.
        sample = engine.sample(at[8][1], seed=1)
        for name, variables, images in (
                ("memory", {"BIDIFF_EMULATED_FAIL": "cuMemAlloc=2"}, (noisy[..., :8, :16],
                                                                     condition[..., :8, :16])),
                ("context", {"BIDIFF_STAND_IN_FAIL": "context"}, (noisy[..., :16, :8],
                                                                 condition[..., :16, :8])),
                ("enqueue", {"BIDIFF_STAND_IN_FAIL": "enqueue"}, (noisy[..., :8, :24],
                                                                 condition[..., :8, :24])),
                ("copy", {"BIDIFF_EMULATED_FAIL": "cuMemcpyHtoDAsync=719"}, at[16]),
                ("launch", {"BIDIFF_EMULATED_FAIL": "cuGraphLaunch=1"}, at[8])):
            with failing(**variables):
                told[name] = [*told_by(partial(engine.predict, *images, first)),
                              images[0].shape in engine._steps]
            for side, images in at.items():
                for _ in range(2):
                    np.testing.assert_array_equal(engine.predict(*images, first), expected[side])
        with failing(BIDIFF_STAND_IN_FAIL="enqueue"):
            told["loop"] = told_by(lambda: engine.sample(at[8][1], seed=1))
        for _ in range(3):
            np.testing.assert_array_equal(engine.sample(at[8][1], seed=1), sample)
        four = np.repeat(noisy, 4, 0)
        with failing(BIDIFF_EMULATED_FAIL="cuMemAlloc=2"):
            engine._free = 1 << 40
            told["batch"] = told_by(lambda: engine.predict(four, four, first))
        told["none"] = told_by(lambda: engine.predict(np.zeros((1, 3, 32, 32), np.float32),
                                                      np.zeros((1, 3, 32, 32), np.float32), first))
        told["tile"] = engine._failure(MemoryError("cuMemAlloc: out of memory"),
                                       (1, 3, 4096, 4096))
    told["freed"] = [before, device_memory(0)[0]]
    capture_fails(path, at[8], told)
    leave_open(path, at[8], told)


def run_pycuda(path: str, folder: Path, out: dict, told: dict) -> None:
    """The same with pycuda for memory, copies and stream, as short as it goes."""
    build(path, static(1, 8, 16))
    noisy, condition = np.random.default_rng(0).random((2, 1, 3, 8, 16), np.float32)
    before = device_memory(0)[0]
    with load_bundle(path, backend="tensorrt") as engine:
        told["description"], first = engine.description, engine.timesteps[0]
        out["steps"] = np.stack([engine.predict(noisy, condition, first) for _ in range(3)])
        with failing(BIDIFF_EMULATED_FAIL="cuMemcpyHtoDAsync=2"):
            told["memory"] = told_by(lambda: engine.predict(noisy, condition, first))
        out["loops"] = np.stack([engine.sample(condition, seed=1) for _ in range(3)] + [
            engine.sample(condition, seed=1, on_step=lambda done, of: None)])
    told["freed"] = [before, device_memory(0)[0]]
    leave_open(path, (noisy, condition), told)


def capture_fails(path: str, images, told: dict) -> None:
    capture = Device.capture
    for name in ("cuStreamBeginCapture", "cuGraphInstantiate", "invalidated"):
        if name == "invalidated":  # by what a stream that is captured refuses
            Device.capture = lambda self, work: capture(self, lambda: (work(), self.synchronise()))
        with load_bundle(path, backend="tensorrt") as engine, warnings.catch_warnings(
                record=True) as caught, failing(BIDIFF_EMULATED_FAIL=f"{name}=900"):
            warnings.simplefilter("always")
            steps = [engine.predict(*images, engine.timesteps[0]) for _ in range(4)]
            loops = [engine.sample(images[1], seed=1) for _ in range(3)]
            for found in (steps, loops):
                for one in found[1:]:
                    np.testing.assert_array_equal(one, found[0])
        told[name] = [str(one.message) for one in caught
                      if issubclass(one.category, RuntimeWarning)]
    Device.capture = capture


def leave_open(path: str, images, told: dict) -> None:
    """An engine that nobody closes."""
    before = device_memory(0)[0]
    engine = load_bundle(path, backend="tensorrt")
    thread = engine._thread
    engine.predict(*images, engine.timesteps[0])
    held = before - device_memory(0)[0]
    del engine
    gc.collect()
    thread._pool.shutdown()
    told["left"] = [held > 0, before - device_memory(0)[0]]


def run_opening(path: str, folder: Path, out: dict, told: dict) -> None:
    """What opening is refused with, and plans of other places."""
    plans = Path(os.environ["BIDIFF_TENSORRT_PLANS"])

    def opening(backend: str = "tensorrt") -> list:
        return told_by(lambda: load_bundle(path, backend=backend).close())

    told["empty"] = {backend: opening(backend) for backend in TENSORRT}
    build(path, static(1, 16, 16))
    told["built"] = opening()
    (sidecar,) = plans.glob("*.json")
    text = sidecar.read_text()
    sidecar.write_text(text.replace("  80\n", "  87\n"))
    told["gpu"] = opening()
    sidecar.write_text("{}")
    told["sidecar"] = opening()
    sidecar.write_text(text)
    with failing(BIDIFF_STAND_IN_FAIL="deserialize"):
        told["deserialize"] = opening()
    with failing(BIDIFF_EMULATED_FAIL="cuStreamCreate=2"):
        told["stream"] = opening()
    with failing(BIDIFF_EMULATED_FAIL="cuMemAlloc=2"):
        told["memory"] = opening()
    with failing(BIDIFF_TENSORRT_PLUGIN="/nonexistent/plugin.so"):
        told["plugin"] = opening()
    # One that fits beside one that does not.
    build(path, static(1, 24, 24))
    sidecar.write_text(text.replace('"tensorrt": "', '"tensorrt": "9.'))
    image = np.zeros((1, 3, 24, 24), np.float32)
    with load_bundle(path, backend="tensorrt") as engine:
        told["beside"] = told_by(lambda: engine.predict(image, image, engine.timesteps[0]))
        image = image[..., :16, :16]
        with failing(BIDIFF_EMULATED_FAIL="cuCtxPushCurrent=700"):
            told["context"] = told_by(lambda: engine.predict(image, image, engine.timesteps[0]))
        told["stale"] = told_by(lambda: engine.predict(image, image, engine.timesteps[0]))
    # It would take less memory than one that is for many shapes.
    build(path, Profile((1, 8, 8), (1, 16, 16), (1, 32, 32)))
    with load_bundle(path, backend="tensorrt") as engine:
        told["next"] = told_by(lambda: engine.predict(image, image, engine.timesteps[0]))
    told["description"] = engine.description  # though it is closed
    told["free"] = device_memory(0)[0]
