"""A step: our backend against cuDNN in torch, and ONNX Runtime without our operators."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle import open_bundle
from bidiff_deploy.engines.device_step import DeviceStep
from bidiff_deploy.errors import EngineError

from .layers import captured, import_torch_cuda, timed
from .stock import random_images, time_onnxruntime
from .work import step_work

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "reference"
# Signal to noise in dB that a step must reach against the published implementation. In float32,
# another order of summation leaves 125 where no sign flips, about 45 where a few do. In float16,
# signs flip everywhere, and one is a large part of a sum over few channels: the emulated kernels
# have 16 with 8 to 16 channels, 24 with 32, 36 with the published 32 to 512.
CASES: dict[str, tuple[str, dict[str, float]]] = {
    "forward_tiny": ("tiny", {"exact": 100.0, "half": 12.0}),
    "forward_small": ("small", {"exact": 60.0, "half": 20.0}),
    "forward_full_64": ("full", {"exact": 40.0, "half": 30.0}),
    "forward_full_256": ("full", {"exact": 40.0, "half": 30.0})}


def reference_bundle(network: str, timesteps: Sequence[int], folder: Path, *,
                     precision: str = "exact") -> Path:
    """A bundle of the reference cases' weights; raises EngineError without the cases."""
    from bidiff_deploy.checkpoint import read_checkpoint
    from bidiff_deploy.export.write import export_bundle
    from bidiff_deploy.options import read_options
    if not (REFERENCE / f"layout_{network}.json").is_file():
        raise EngineError(f"{REFERENCE} has no layout_{network}.json; run this in a checkout of "
                          "the repository")
    sys.path.insert(0, str(REFERENCE))
    try:
        from synth_weights import load_layout, synth_state_dict
    finally:
        sys.path.pop(0)
    import yaml
    from safetensors.numpy import save_file
    layout = load_layout(network)
    options, weights = folder / f"{network}.yml", folder / f"{network}.safetensors"
    options.write_text(yaml.safe_dump({
        "name": network, "scale": 4, "network_g": {"type": "BIDiffSRUNet", **layout["network"]},
        "beta_schedule": {"schedule": "linear", "n_timestep": layout["network"]["total_step"],
                          "linear_start": 1e-6, "linear_end": 1e-2}}))
    if not weights.exists():
        save_file(synth_state_dict(layout["shapes"], 0), weights)
    path = folder / f"{network}_{precision}_{'_'.join(map(str, timesteps[:3]))}.bundle"
    if not path.exists():
        export_bundle(read_checkpoint(weights, read_options(options)), path,
                      timesteps=tuple(sorted(timesteps, reverse=True)), precision=precision)
    return path


def snr(reference: np.ndarray, found: np.ndarray) -> float:
    """10 log10(sum ref^2 / sum (ref - found)^2) in dB."""
    reference = np.asarray(reference, np.float64)
    error = float(np.sum((reference - found) ** 2))
    return 10 * float(np.log10(np.sum(reference ** 2) / error)) if error else float("inf")


def hold_reference(cases: Sequence[str], folder: Path, device: int = 0) -> list[dict[str, Any]]:
    """Each reference case through backend onnxruntime-cuda, in float32 and in float16: the least
    SNR of its steps, and whether it reaches the bound."""
    found = []
    for case in cases:
        if case not in CASES:
            raise EngineError(f"{case} is no reference case; they are {', '.join(CASES)}")
        network, bounds = CASES[case]
        with np.load(REFERENCE / f"{case}.npz") as file:
            data = dict(file)
        timesteps = [int(timestep) for timestep in data["timesteps"]]
        for precision, bound in bounds.items():
            bundle = reference_bundle(network, timesteps, folder, precision=precision)
            with load_bundle(bundle, backend="onnxruntime-cuda", device=device) as engine:
                least = min(snr(expected, engine.predict(data["noisy"], data["condition"],
                                                         timestep))
                            for timestep, expected in zip(timesteps, data["prediction"]))
            found.append({"case": case, "precision": precision, "snr_db": least,
                          "bound_db": bound, "ok": least >= bound})
    return found


def time_ours(bundle: Path, timestep: int, batch: int, size: int, repeats: int,
              steps: int, device: int = 0) -> dict[str, Any]:
    """Milliseconds a step of backend onnxruntime-cuda: of a loop's steps on the device, with the
    step's row of constants copied to it each time, as in a loop."""
    noisy, condition = random_images(batch, size)
    with load_bundle(bundle, backend="onnxruntime-cuda", device=device) as engine:
        engine.predict(noisy, condition, timestep)  # the first runs capture the CUDA graph
        row = engine._rows.row(timestep, (np.float32(0), np.float32(1), np.float32(1),
                                          np.float32(0)))

        def measure(step: DeviceStep) -> list[float]:
            step.load(noisy, condition)
            for _ in range(4):
                step.run(row)
            step.latent()

            def run() -> float:
                start = time.perf_counter()
                for _ in range(steps):
                    step.run(row)
                step.latent()  # waits, and copies one latent
                return 1e3 * (time.perf_counter() - start) / steps
            return [run() for _ in range(repeats)]

        times = engine._with_step(noisy.shape, measure)
        what = engine.description
    return {"ms": statistics.median(times), "spread": max(times) / min(times) - 1, "what": what,
            "work": step_work(bundle, batch, size, device)}


def time_torch(bundle: Path, timestep: int, batch: int, size: int, repeats: int,
               steps: int, device: int = 0) -> dict[str, Any]:
    """The folded network in float16, channels_last, by cuDNN, as a CUDA graph."""
    torch = import_torch_cuda()
    from bidiff_deploy.proof.folded import folded_network
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode(), torch.cuda.device(device):
        network = folded_network(open_bundle(bundle), timestep).to("cuda").half().to(
            memory_format=torch.channels_last)
        inputs = [torch.from_numpy(image).to("cuda").half().contiguous(
            memory_format=torch.channels_last) for image in random_images(batch, size)]
        run = captured(torch, lambda: network(*inputs, timestep), steps)
        times = [timed(torch, run) / steps for _ in range(repeats)]
    return {"ms": statistics.median(times), "spread": max(times) / min(times) - 1,
            "what": f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, float16, "
                    "channels_last, CUDA graph"}


CANDIDATES: dict[str, Callable[..., dict[str, Any]]] = {
    "ours": time_ours, "torch": time_torch, "onnxruntime": time_onnxruntime}
