"""The parts of a check. Each runs in a separate process: a fault in one kernel breaks the GPU
context of its process, and torch and ONNX Runtime load CUDA libraries that may differ."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.checks.gpu_state import gpu_state, package_versions
from tools.checks.processes import TIMEOUT, Options, Result, guarded, run_apart
from tools.checks.reference import below_bounds, reference_bundle

HERE = Path(__file__).resolve().parent


def run(name: str, options: Options, prefix: tuple[str, ...] = (),
        timeout: float = TIMEOUT) -> Result:
    """Run a part in a separate process; see ``run_apart``."""
    return run_apart(HERE, name, options, prefix, timeout)


def parity(options: Options) -> Result:
    """Compare every path of every operator with the CPU."""
    from bidiff_deploy.progress import Progress
    from tools.checks.cuda_operators import Gpu

    from .parity import check
    with Gpu(options["device"]) as gpu, Progress("parity", 1) as progress:
        found = check(gpu, cases=options["cases"], seed=options["seed"],
                      largest=options["largest"],
                      progress=lambda done, total: progress.update(done / total))
        origin = gpu.origin
    if found["failures"]:
        count, first = len(found["failures"]), found["failures"][0]
        return {**found, "kernels": origin, "ok": False,
                "reason": f"{count} of {found['runs']} runs differ from the CPU: {first}"}
    return {**found, "kernels": origin}


def sanitizer(options: Options) -> Result:
    """Run a few of the parity cases under NVIDIA's compute-sanitizer."""
    from bidiff_deploy.errors import EngineError
    tool = (shutil.which("compute-sanitizer")
            or shutil.which("/usr/local/cuda/bin/compute-sanitizer"))
    if tool is None:
        raise EngineError("compute-sanitizer was not found; it is part of NVIDIA's CUDA toolkit")
    few = {**options, "cases": max(1, options["cases"] // 10), "largest": min(33,
                                                                             options["largest"])}
    runs = {}
    for check in ("memcheck", "racecheck", "synccheck", "initcheck"):
        found = run("parity", few, (tool, "--tool", check, "--error-exitcode", "99"))
        runs[check] = {key: found.get(key) for key in ("ok", "reason", "runs", "exit_code")}
        if found["exit_code"] == 99 or not found["ok"]:
            lines = [line for line in found.get("output", "").splitlines() if "=====" in line]
            reason = found.get("reason") or (lines or ["it reported an error"])[0]
            return {"tool": tool, "checks": runs, "ok": False, "reason": f"{check}: {reason}"}
    return {"tool": tool, "checks": runs}


def reference(options: Options) -> Result:
    """Run the reference cases with backend onnxruntime-cuda, in float32 and in float16."""
    from .steps import hold_reference
    with tempfile.TemporaryDirectory() as folder:
        cases = hold_reference(options["reference_cases"], Path(folder), options["device"])
    if reason := below_bounds(cases):
        return {"cases": cases, "ok": False, "reason": reason}
    return {"cases": cases}


def machine(options: Options) -> Result:
    """The GPU, its state, and versions of the packages."""
    from bidiff_deploy.engines.gpu import library as cuda_library

    packages = package_versions(
        "bidiff-deploy", "onnxruntime-gpu", "onnxruntime", "torch", "numpy",
        "nvidia-cuda-nvrtc-cu12", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
    info = cuda_library.device_info(options["device"])
    return {"device": vars(info), "paths": cuda_library.paths(info.architecture),
            "embedded": vars(cuda_library.embedded()), "packages": packages,
            "python": platform.python_version(), "system": platform.platform(),
            "state": gpu_state(info.ordinal),
            "kernels": cuda_library.load_kernels(info.ordinal)}


def layers(options: Options) -> Result:
    """Time every operator by every path, for every batch size."""
    from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
    from bidiff_deploy.progress import Progress
    from tools.checks.cuda_operators import Gpu

    from .layers import step_total, time_layers
    from .shapes import network_operators, parse_layers, single_convolutions
    if options["layers"]:
        groups = {"convolutions": parse_layers(options["layers"]), "operators": []}
    else:
        config = NetworkConfig()
        groups = {"convolutions": single_convolutions(config),
                  "operators": network_operators(config)}
    found: Result = {"batches": {}}
    with Gpu(options["device"]) as gpu:
        found["bandwidth"] = bandwidth = gpu.info.memory_bandwidth
        for batch in options["batches"]:
            entry: dict[str, Any] = {}
            found["batches"][str(batch)] = entry
            for name, listed in groups.items():
                with Progress(f"{name}, batch {batch}", 1) as progress:
                    entry[name] = time_layers(
                        gpu, listed, batch=batch, repeats=options["repeats"],
                        rounds=options["rounds"], bandwidth=bandwidth,
                        cache=options["cache"] << 20,
                        progress=lambda done, total: progress.update(done / total))
                if name == "operators" and entry[name]:
                    entry["step_total_ms"] = step_total(entry[name])
    return found


def cudnn(options: Options) -> Result:
    """Time cuDNN's float16 convolutions of the same shapes."""
    from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig

    from .layers import time_cudnn
    from .shapes import parse_layers, single_convolutions
    listed = (parse_layers(options["layers"]) if options["layers"]
              else single_convolutions(NetworkConfig()))
    return {"batches": {str(batch): time_cudnn(
        listed, batch=batch, repeats=options["repeats"], rounds=options["rounds"],
        device=options["device"]) for batch in options["batches"]}}


def _step(candidate: str) -> Callable[[Options], Result]:
    def work(options: Options) -> Result:
        from .steps import CANDIDATES
        found: Result = {"size": options["size"], "batches": {}}
        with tempfile.TemporaryDirectory() as folder:
            # Same weights; ours may round the values that a float16 baseline rounds.
            precision = "half" if candidate == "ours" else "exact"
            bundle = reference_bundle(options["network"], options["timesteps"], Path(folder),
                                      precision=precision)
            for batch in options["batches"]:
                result = guarded(lambda _, batch=batch: CANDIDATES[candidate](
                    bundle, options["timesteps"][0], batch, options["size"], options["repeats"],
                    options["steps"], options["device"]), options)
                found["batches"][str(batch)] = result
        failed = [entry["reason"] for entry in found["batches"].values() if not entry["ok"]]
        if len(failed) == len(found["batches"]):
            return {**found, "ok": False, "reason": failed[0]}
        return found
    return work


PARTS: dict[str, Callable[[Options], Result]] = {
    "machine": machine, "parity": parity, "sanitizer": sanitizer, "reference": reference,
    "layers": layers, "cudnn": cudnn, "step-ours": _step("ours"), "step-torch": _step("torch"),
    "step-onnxruntime": _step("onnxruntime")}
