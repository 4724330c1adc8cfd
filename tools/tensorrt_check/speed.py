"""Times a step and a whole loop of each kind of engine, in turn in one process."""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bidiff_deploy import load_bundle
from tools.checks.processes import Options, Result, guarded
from tools.checks.timing import random_images, time_steps

from .engines import load, network_bundle

# Name -> (variant, precision of the bundle); None: ONNX Runtime with our CUDA kernels.
CANDIDATES: dict[str, tuple[str | None, str]] = {
    "plugin float32": ("plugin", "exact"), "plugin float16": ("plugin", "half"),
    "dense float16": ("dense", "half"), "dense int8": ("dense-int8", "half"),
    "onnxruntime-cuda float16": (None, "half")}
OURS, BASELINE, AIM = "plugin float16", "dense float16", 1.5  # of the loop
KINDS = ("step", "loop", "stepwise")
_WARM = 3  # loops: in the second it is captured


def speed(network: str | None, options: Options) -> Result:
    """Milliseconds of a step, of a loop as one CUDA graph, and of a loop step by step, by batch and
    candidate: medians, spreads, and ratios to ours in each round. ``network``: as in
    ``network_bundle``; None: from the options."""
    network = network or options["network"]
    found: Result = {"network": network, "size": options["size"], "steps": options["steps"],
                     "batches": {}}
    with tempfile.TemporaryDirectory() as name:
        for batch in options["batches"]:
            found["batches"][str(batch)] = guarded(
                functools.partial(_batch, network, batch, Path(name)), options)
    failed = [f"batch {batch}: {entry['reason']}" for batch, entry in found["batches"].items()
              if not entry["ok"]]
    return {**found, **({"ok": False, "reason": "; ".join(failed)} if failed else {})}


def _batch(network: str, batch: int, folder: Path, options: Options) -> Result:
    entries: dict[str, Result] = {}
    with contextlib.ExitStack() as stack:
        runs: dict[str, dict[str, Callable[[], float]]] = {}
        for name, (variant, precision) in CANDIDATES.items():
            def begin(_: Options, variant: str | None = variant, precision: str = precision,
                      name: str = name) -> Result:
                runs[name], what = _begin(network, variant, precision, batch, folder, options,
                                          stack)
                return {"what": what}
            entries[name] = guarded(begin, options)
        times: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
        for _ in range(options["repeats"]):
            for name, measures in list(runs.items()):
                def measure(_: Options, name: str = name,
                            measures: dict[str, Callable[[], float]] = measures) -> Result:
                    for kind, run in measures.items():
                        times[name].setdefault(kind, []).append(run())
                    return {}
                done = guarded(measure, options)
                if not done["ok"]:
                    entries[name] = {**entries[name], **done}
                    del runs[name], times[name]
    for name, kinds in times.items():
        entries[name].update({kind: summary(values) for kind, values in kinds.items()})
    able = [name for name in entries if entries[name]["ok"]]
    result = {"candidates": entries, "ratios": {
        name: {kind: ratio(times[name][kind], times[OURS][kind]) for kind in KINDS}
        for name in able if name != OURS and OURS in able}}
    for name in (OURS, BASELINE):  # without both nothing is compared
        if name not in able:
            return {**result, "ok": False, "reason": f"{name}: {entries[name]['reason']}"}
    return result


def _begin(network: str, variant: str | None, precision: str, batch: int, folder: Path,
           options: Options, stack: contextlib.ExitStack) -> tuple[dict[str, Callable[[], float]],
                                                                   str]:
    """{kind: function that measures it}, warm, and the engine's description."""
    size, steps = options["size"], options["steps"]
    bundle = network_bundle(network, steps, folder, precision)
    if variant is None:
        engine = load_bundle(bundle, backend="onnxruntime-cuda", device=options["device"])
    else:
        engine = load(bundle, variant, (batch, size, size), options["device"])
    engine = stack.enter_context(engine)
    noise, condition = random_images(batch, size)
    loops = {"loop": loop_timer(engine, condition, noise, None),
             "stepwise": loop_timer(engine, condition, noise, lambda done, total: None)}
    for run in loops.values():
        for _ in range(_WARM):
            run()
    return {"step": time_steps(engine, engine.timesteps[0], batch, size, steps),
            **loops}, engine.description


def loop_timer(engine: Any, condition: Any, noise: Any,
               on_step: Callable[[int, int], None] | None) -> Callable[[], float]:
    """A function that returns the milliseconds of ``sample`` from pure noise, including the copies
    to the GPU and back."""
    def run() -> float:
        start = time.perf_counter()
        engine.sample(condition, noise, start=None, on_step=on_step)
        return 1e3 * (time.perf_counter() - start)
    return run


def summary(times: list[float]) -> dict[str, float]:
    """The median, and how much slower the slowest is than the fastest, as a fraction."""
    return {"ms": statistics.median(times),
            "spread": max(times) / min(times) - 1 if min(times) > 0 else 0.0}


def ratio(others: list[float], ours: list[float]) -> dict[str, float]:
    """How many times longer the others take than ours, over the rounds."""
    each = [other / own for other, own in zip(others, ours) if own > 0]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}
