"""Measures the time and size of builds, and the memory of engines of one step and of many."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bidiff_deploy.bundle.manifest import open_bundle
from tools.checks.processes import Options, Result, guarded
from tools.checks.timing import random_images

from .engines import load, network_bundle

# Largest allowed ratio of the build times of many steps and of one.
MAX_TIMES = 2.0
PLUGIN = ("plugin", "exact"), ("plugin", "half")
DENSE = ("dense", "half"), ("dense-int8", "half")


def build(variants: Sequence[tuple[str, str]], options: Options) -> Result:
    """Seconds and bytes of the plan for each variant and precision, each with an empty timing
    cache; for the plugin in float16 also with one timestep."""
    steps, size = options["steps"], options["size"]
    wanted = [(*variant, steps) for variant in variants]
    if ("plugin", "half") in variants:
        wanted.insert(1, ("plugin", "half", 1))
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A first build, not measured: TensorRT and the driver load libraries for it.
        guarded(functools.partial(_cold, "tiny", (*variants[0], 1), 64, folder), options)
        for entry in wanted:
            result = guarded(functools.partial(_cold, options["network"], entry, size, folder),
                             options)
            found.append({**dict(zip(("variant", "precision", "steps"), entry)), **result})
    result = {"size": size, "network": options["network"], "plans": found}
    seconds = {(entry["variant"], entry["precision"], entry["steps"]): entry["seconds"]
               for entry in found if entry["ok"]}
    one, many = (seconds.get(("plugin", "half", count)) for count in (1, steps))
    if one and many:
        result["times_one_step"] = many / one
    failed = [entry["reason"] for entry in found if not entry["ok"]]
    return {**result, **({"ok": False, "reason": failed[0]} if failed else {})}


def _cold(network: str, wanted: tuple[str, str, int], size: int, folder: Path,
          options: Options) -> Result:
    from bidiff_deploy.engines.tensorrt.build.builder import build_plan
    from bidiff_deploy.engines.tensorrt.profiles import Profile
    variant, precision, steps = wanted
    bundle = open_bundle(network_bundle(network, steps, folder, precision))
    shape = (1, size, size)
    with tempfile.TemporaryDirectory() as scratch, _empty_cache(scratch):
        plan = build_plan(bundle, Profile(shape, shape, shape), variant=variant,
                          device=options["device"], folder=Path(scratch, "plans"), overwrite=True)
        return {"seconds": plan.info.seconds, "bytes": plan.info.bytes}


@contextmanager
def _empty_cache(folder: str) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def memory(options: Options) -> Result:
    """Bytes of GPU memory that an engine uses, open and with its loop captured, for one step and
    for many. Measured by the driver's free memory, so other programs on the GPU falsify it."""
    from tools.checks.cuda_operators import Gpu
    steps, found = options["steps"], []
    with tempfile.TemporaryDirectory() as name, Gpu(options["device"]) as gpu:
        folder = Path(name)

        def taken(variant: str, precision: str, count: int, options: Options) -> Result:
            bundle = network_bundle(options["network"], count, folder, precision)
            noise, condition = random_images(1, options["size"])
            before = gpu.free_memory
            with load(bundle, variant, (1, *noise.shape[2:]), options["device"]) as engine:
                opened, lowest = before - gpu.free_memory, gpu.free_memory
                for _ in range(3):  # the second is captured, the third launched
                    engine.sample(condition, noise, start=None)
                    lowest = min(lowest, gpu.free_memory)
            return {"opened_bytes": opened, "peak_bytes": before - lowest}

        for variant, precision in PLUGIN + DENSE:
            for count in sorted({1, steps}):
                # Once before: code that CUDA loads at first use stays and is not the engine's.
                measure = functools.partial(taken, variant, precision, count)
                guarded(measure, options)
                entry = guarded(measure, options)
                found.append({"variant": variant, "precision": precision, "steps": count, **entry})
    failed = [entry["reason"] for entry in found if not entry["ok"]]
    bad = {"ok": False, "reason": failed[0]} if failed else {}
    return {"size": options["size"], "network": options["network"], "engines": found, **bad}
