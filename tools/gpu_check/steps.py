"""Times a step of our backend, of cuDNN in torch, and of ONNX Runtime without our operators."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from tools.checks.reference import CASES, read_case
from tools.checks.reference import hold_reference as hold
from tools.checks.timing import random_images, time_steps

from .layers import captured, import_torch_cuda, timed
from .stock import time_onnxruntime
from .work import step_work


def hold_reference(cases: Sequence[str], folder: Path, device: int = 0) -> list[dict[str, Any]]:
    """Run each reference case with backend onnxruntime-cuda, in float32 and in float16: the lowest
    SNR of its steps, and whether it reaches the bound."""
    for case in cases:
        read_case(case)  # refuses unknown cases before the work
    return [hold(case, precision, bound, folder, lambda bundle, _: load_bundle(
                bundle, backend="onnxruntime-cuda", device=device))
            for case in cases for precision, bound in CASES[case][1].items()]


def time_ours(bundle: Path, timestep: int, batch: int, size: int, repeats: int,
              steps: int, device: int = 0) -> dict[str, Any]:
    """Milliseconds of a step of backend onnxruntime-cuda, on the device and with the step's row of
    constants copied to it each time, as in a loop."""
    with load_bundle(bundle, backend="onnxruntime-cuda", device=device) as engine:
        run = time_steps(engine, timestep, batch, size, steps)
        times = [run() for _ in range(repeats)]
        what = engine.description
    return {"ms": statistics.median(times), "spread": max(times) / min(times) - 1, "what": what,
            "work": step_work(bundle, batch, size, device)}


def time_torch(bundle: Path, timestep: int, batch: int, size: int, repeats: int,
               steps: int, device: int = 0) -> dict[str, Any]:
    """Milliseconds of a step of the folded network in float16, channels_last, with cuDNN, as a CUDA
    graph."""
    torch = import_torch_cuda()
    from bidiff_deploy.proof.bench.folded import folded_network
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode(), torch.cuda.device(device):
        network: Any = folded_network(open_bundle(bundle), timestep).to("cuda").half()
        network.to(memory_format=torch.channels_last)
        inputs = [torch.from_numpy(image).to("cuda").half().contiguous(
            memory_format=torch.channels_last) for image in random_images(batch, size)]
        run = captured(torch, lambda: network(*inputs, timestep), steps)
        times = [timed(torch, run) / steps for _ in range(repeats)]
    return {"ms": statistics.median(times), "spread": max(times) / min(times) - 1,
            "what": f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, float16, "
                    "channels_last, CUDA graph"}


CANDIDATES: dict[str, Callable[..., dict[str, Any]]] = {
    "ours": time_ours, "torch": time_torch, "onnxruntime": time_onnxruntime}
