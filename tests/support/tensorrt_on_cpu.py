"""Run as a program in a process of the stand-in for TensorRT: ``WHAT BUNDLE FOLDER`` writes arrays
to FOLDER/out.npz and what was told to FOLDER/out.json."""

from __future__ import annotations

import json
import os
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import tensorrt

from bidiff_deploy import load_bundle
from bidiff_deploy.engines import TENSORRT
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.run.context import OpenPlan
from bidiff_deploy.engines.tensorrt.run.device import Graph
from bidiff_deploy.engines.tensorrt.run.step import TensorRtStep
from support.by_threads import by_threads
from support.tensorrt_on_cpu_failures import (
    build,
    run_failures,
    run_opening,
    run_pycuda,
    static,
    told_by,
)


class Counts:
    """How often steps are put on the stream, by hand or into a graph, and graphs are launched."""

    def __init__(self) -> None:
        self.enqueued = self.launched = self.addressed = 0
        self.threads: set[int] = set()
        self.contexts: dict = {}
        enqueue, launch, context = TensorRtStep._enqueue, Graph.launch, OpenPlan.context

        def counted_context(opened, stream):
            # Of contexts that are there: the program keeps none alive.
            made = weakref.ref(found := context(opened, stream))
            self.contexts.setdefault(id(opened), []).append(made)
            alive = [one for one in self.contexts[id(opened)] if one() is not None]
            self.most = max(self.most, len(alive) * (not opened.plan.info.profile.static))
            return found

        def counted_enqueue(step):
            self.enqueued += 1
            self.threads.add(threading.get_ident())
            enqueue(step)

        def counted_launch(graph):
            self.launched += 1
            launch(graph)

        def counted_address(context, name, memory):
            self.addressed += 1
            return address(context, name, memory)

        address = tensorrt.IExecutionContext.set_tensor_address
        tensorrt.IExecutionContext.set_tensor_address = counted_address

        TensorRtStep._enqueue, Graph.launch = counted_enqueue, counted_launch
        OpenPlan.context, self.most = counted_context, 0

    def take(self) -> list[int]:
        found, self.enqueued, self.launched = [self.enqueued, self.launched], 0, 0
        return found


def run_engine(path: str, folder: Path, out: dict, told: dict) -> None:
    data = dict(np.load(folder / "in.npz"))
    noisy, condition = data["noisy"][:1], data["condition"][:1]
    times = [int(t) for t in data["timesteps"]]
    small = condition[..., :8, :16]
    counts = Counts()
    build(path, static(1, *noisy.shape[2:]), Profile((1, 8, 8), (1, 16, 16), (2, 24, 24)))
    with load_bundle(path, backend="tensorrt") as engine:
        told["description"], told["kernel"] = engine.description, engine.kernel
        told["precision"] = engine.precision
        out["predictions"] = np.concatenate([engine.predict(noisy, condition, t) for t in times])
        told["first"] = counts.take()
        # Other shapes, more than are kept, then the first once more.
        for side in (8, 16, 24, 12, 20):
            engine.predict(noisy[..., :side, :side], condition[..., :side, :side], times[0])
        told["shapes"], told["plans"] = len(engine._steps), len(engine._open)
        told["contexts"] = counts.most
        # As often as there are tensors of a context: none is moved once it is captured.
        made = sum(map(len, counts.contexts.values()))
        told["addressed"] = [counts.addressed, made * (len(engine._rows.places) + 4)]
        out["again"] = engine.predict(noisy, condition, times[0])
        pair = np.concatenate([noisy, noisy[..., ::-1]])[..., :8, :16]
        both = np.concatenate([small, small[..., ::-1]])
        out["batch"] = engine.predict(pair, both, times[0])
        out["singles"] = np.concatenate([engine.predict(
            np.ascontiguousarray(pair[i:i + 1]), np.ascontiguousarray(both[i:i + 1]), times[0])
            for i in (0, 1)])
        out["threads"] = by_threads(lambda t: engine.predict(noisy, condition, t), times[:2])
        counts.take()
        loops(engine, small, counts, out, told)
        callbacks(engine, small, out, told)
    assert len(counts.threads) == 1 and threading.get_ident() not in counts.threads
    told["closed"] = told_by(lambda: engine.predict(noisy, condition, times[0]))


def loops(engine, condition, counts: Counts, out: dict, told: dict) -> None:
    """Loops as one graph, and step by step; what each put on the stream."""
    steps: list = []
    many = len(engine.timesteps)
    stepwise = {"seed": 5, "on_step": lambda done, of: steps.append([done, of])}
    out["sample"] = engine.sample(condition, **stepwise)
    told["steps"] = list(steps)
    counts.take()
    for index in range(3):
        out[f"loop{index}"] = engine.sample(condition, seed=5)
        told[f"loop{index}"] = counts.take()
    # As many steps, other timesteps, factors, noise: the same graph. Odd and even numbers.
    for name, options in (("two", {"steps": 2}), ("start", {"steps": 2, "start": 400}),
                          ("one", {"steps": 1}), ("all", {"seed": 6})):
        found = [engine.sample(condition, **{"seed": 7, **options}) for _ in range(2)]
        counts.take()
        found.append(engine.sample(condition, **{"seed": 7, **options}))
        told[f"loop_{name}"] = counts.take()
        found.append(engine.sample(condition, **{"seed": 7, **options},
                                   on_step=lambda done, of: None))
        out[f"loops_{name}"] = np.stack(found)
    told["loops"] = len(engine._steps[condition.shape]._loops)
    assert many > 2


def callbacks(engine, condition, out: dict, told: dict) -> None:
    told["callback"] = []

    def on_step(done, of):
        for call in (lambda: engine.sample(condition, seed=6),
                     lambda: engine.predict(condition, condition,
                                            engine.timesteps[0])):
            told["callback"].append(told_by(call)[1])

    out["sample_with_calls"] = engine.sample(condition[0], seed=5, on_step=on_step)

    def stop(done, of):
        raise ArithmeticError

    try:
        engine.sample(condition, seed=9, on_step=stop)
    except ArithmeticError:
        out["sample_after_stop"] = engine.sample(condition, seed=5)


def run_variants(path: str, folder: Path, out: dict, told: dict) -> None:
    """One step and one loop by each variant, and by the backend onnxruntime-cuda."""
    random = np.random.default_rng(3)
    noisy, condition = random.random((2, 1, 3, 16, 24), np.float32)
    for backend, variant in TENSORRT.items():
        build(path, static(1, 16, 24), variant=variant)
        with load_bundle(path, backend=backend, device=0) as engine:
            told[backend] = engine.description
            out[f"{backend}.predict"] = engine.predict(noisy, condition, engine.timesteps[0])
            out[f"{backend}.sample"] = engine.sample(condition, seed=1)
    os.environ["BIDIFF_CUDA_ON_CPU"] = "1"
    with load_bundle(path, backend="onnxruntime-cuda") as engine:
        out["cuda.predict"] = engine.predict(noisy, condition, engine.timesteps[0])
        out["cuda.sample"] = engine.sample(condition, seed=1)


def main(what: str, path: str, folder: Path) -> None:
    out: dict[str, np.ndarray] = {}
    told: dict = {}
    {"engine": run_engine, "failures": run_failures, "opening": run_opening,
     "pycuda": run_pycuda, "variants": run_variants}[what](path, folder, out, told)
    np.savez(folder / "out.npz", **out)
    (folder / "out.json").write_text(json.dumps(told))


if sys.argv[1:2] == ["pycuda"]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins" / "pycuda"))
else:
    sys.modules["pycuda"] = None  # type: ignore[assignment]  # absent, whether or not it is installed

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
