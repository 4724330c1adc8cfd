"""Run as a program, in a process whose op library runs its CUDA operators on the emulated driver:
``ops FOLDER`` runs every model there on its inputs, ``engine BUNDLE FOLDER`` a bundle."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bidiff_deploy import BidiffError, BundleError, EngineError, load_bundle
from bidiff_deploy.engines import library
from bidiff_deploy.engines.onnxruntime.cuda_step import DeviceStep
from bidiff_deploy.engines.onnxruntime.session import session_options
from support.by_threads import by_threads


def run_models(folder: Path) -> None:
    """NAME.onnx on NAME.npz -> NAME.out.npy, or NAME.txt with the sentence of a refusal."""
    for file in sorted(folder.glob("*.onnx")):
        options = session_options(1)
        options.register_custom_ops_library(str(library.library_path()))
        try:
            session = onnxruntime.InferenceSession(str(file), options,
                                                   providers=["CPUExecutionProvider"])
            with np.load(file.with_suffix(".npz")) as inputs:
                np.save(file.with_suffix(".out.npy"), run_from_threads(session, dict(inputs)))
        except Exception as error:
            file.with_suffix(".txt").write_text(str(error))


def run_from_threads(session, inputs, count: int = 3) -> np.ndarray:
    """y of a session whose first runs are several at once, all of them equal."""
    together, calls = threading.Barrier(count), ThreadPoolExecutor(count)

    def run(_):
        together.wait()
        return session.run(["y"], inputs)[0]

    with calls:
        first, *others = calls.map(run, range(count))
    for other in others:
        np.testing.assert_array_equal(other, first)
    return first


def run_engine(path: str, folder: Path) -> None:
    """FOLDER/in.npz (noisy, condition, timesteps) -> FOLDER/out.npz and FOLDER/out.json."""
    data = dict(np.load(folder / "in.npz"))
    noisy, condition = data["noisy"][:1], data["condition"][:1]
    times = [int(t) for t in data["timesteps"]]
    out: dict[str, Any] = {}
    told: dict[str, Any] = {}
    with load_bundle(path, backend="onnxruntime-cuda") as engine:
        told["description"], told["precision"] = engine.description, engine.precision
        told["kernel"] = engine.kernel
        out["predictions"] = np.concatenate([engine.predict(noisy, condition, t) for t in times])
        # Other shapes, more than are kept, then the first once more.
        for side in (2, 4, 6, 8, 10):
            engine.predict(noisy[..., :side, :side], condition[..., :side, :side], times[0])
        out["again"] = engine.predict(noisy, condition, times[0])
        out["threads"] = by_threads(lambda t: engine.predict(noisy, condition, t), times[:2])
        steps = []
        out["sample"] = engine.sample(condition[0, :, :16, :24], seed=5,
                                      on_step=lambda done, of: steps.append((done, of)))
        told["steps"] = steps
        out["first_threads"] = first_runs_of_two_threads(path, noisy, condition, times[:2])
        told["callback"] = calls_from_a_callback(engine, condition[0, :, :16, :24], out)
        told["failures"] = failures(engine, noisy, condition, times[0], out)
        image = np.random.default_rng(1).integers(0, 256, (5, 17, 3), np.uint8)
        out["upscaled"] = engine.upscale(image, seed=2, steps=1, tile=64, overlap=8)
        for name, shape in (("image", (1, 3, 4096, 4096)), ("batch", (64, 3, 64, 64))):
            engine._free = 2 << 30
            told[name] = engine._failure(
                RuntimeError("BFCArena: Failed to allocate memory for requested buffer"), shape)
        told["other"] = engine._failure(RuntimeError("CUDA failure 700"), (1, 3, 8, 8))
    np.savez(folder / "out.npz", **out)
    (folder / "out.json").write_text(json.dumps(told))


def first_runs_of_two_threads(path, noisy, condition, times):
    """Predictions of an engine whose first runs two threads ask for at once; all of its runs are
    made by one thread."""
    found, runners, run = {}, set(), DeviceStep.run
    together = threading.Barrier(len(times))

    def noted(step, row):
        runners.add(threading.get_ident())
        run(step, row)

    def work(engine, timestep):
        together.wait()
        found[timestep] = [engine.predict(noisy, condition, timestep) for _ in range(3)]

    DeviceStep.run = noted
    try:
        with load_bundle(path, backend="onnxruntime-cuda") as engine:
            workers = [threading.Thread(target=work, args=(engine, t)) for t in times]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
    finally:
        DeviceStep.run = run
    assert len(runners) == 1 and runners.isdisjoint({threading.get_ident()})
    return np.concatenate([one for t in times for one in found[t]])


def calls_from_a_callback(engine, condition, out):
    """What a callback is told that uses its own engine; the loop goes on as if it had not."""
    told = []

    def on_step(done, of):
        for call in (lambda: engine.sample(condition, seed=6),
                     lambda: engine.predict(condition[None], condition[None],
                                            engine.timesteps[0])):
            try:
                call()
                told.append("")
            except EngineError as error:
                told.append(str(error))

    out["sample_with_calls"] = engine.sample(condition, seed=5, on_step=on_step)
    return told


def failures(engine, noisy, condition, timestep, out):
    """What a run that fails leaves: the sentence, whether its error holds another (and with it
    the buffers), shapes that keep buffers; then the same run again."""
    run, row, told, engine._free = DeviceStep.run, engine._rows.row, [], 2 << 30

    def no_memory(step, values):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ;")

    def damaged(timestep, factors):
        raise BundleError("step.onnx is gone")

    engine.predict(noisy, condition, timestep)
    for change in (lambda: setattr(DeviceStep, "run", no_memory),
                   lambda: setattr(engine._rows, "row", damaged)):
        change()
        try:
            engine.predict(noisy, condition, timestep)
        except BidiffError as error:
            told.append([type(error).__name__, str(error), error.__context__ is None,
                         noisy.shape in engine._steps])
        finally:
            DeviceStep.run, engine._rows.row = run, row
    out["after_failures"] = engine.predict(noisy, condition, timestep)
    return told


if __name__ == "__main__":
    if sys.argv[1] == "ops":
        run_models(Path(sys.argv[2]))
    else:
        run_engine(sys.argv[2], Path(sys.argv[3]))
