"""A step: our backend against cuDNN in torch, and ONNX Runtime without our operators."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle import open_bundle
from bidiff_deploy.errors import EngineError

from .layers import captured, import_torch_cuda, timed

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


def random_images(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Latent and condition, float32 (batch, 3, size, size)."""
    random = np.random.default_rng(0)
    return (random.standard_normal((batch, 3, size, size)).astype(np.float32),
            random.random((batch, 3, size, size)).astype(np.float32))


def time_ours(bundle: Path, timestep: int, batch: int, size: int, repeats: int,
              steps: int, device: int = 0) -> dict[str, Any]:
    """Milliseconds a step of backend onnxruntime-cuda: of a loop's steps on the device, with the
    step's row of constants copied to it each time, as in a loop."""
    noisy, condition = random_images(batch, size)
    with load_bundle(bundle, backend="onnxruntime-cuda", device=device) as engine:
        engine.predict(noisy, condition, timestep)  # the first runs capture the CUDA graph
        row = engine._rows.row(timestep, (np.float32(0), np.float32(1), np.float32(1),
                                          np.float32(0)))
        with engine._running(noisy.shape) as step:
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
            times = [run() for _ in range(repeats)]
        return {"ms": statistics.median(times), "spread": max(times) / min(times) - 1,
                "what": engine.description}


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


def time_onnxruntime(bundle: Path, timestep: int, batch: int, size: int, repeats: int,
                     steps: int, device: int = 0) -> dict[str, Any]:
    """The folded graph in float16 under ONNX Runtime's CUDA provider, bound, as a CUDA graph."""
    import onnx

    from bidiff_deploy.engines.cuda_provider import cuda_target, require_provider
    from bidiff_deploy.engines.onnxruntime import import_onnxruntime
    from bidiff_deploy.proof.folded import write_folded
    ort = import_onnxruntime()
    target = cuda_target(device, cuda_graph=True)
    if target.device != "cpu":
        require_provider(ort)
    from onnxruntime.transformers.float16 import convert_float_to_float16
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = onnx.load(write_folded(open_bundle(bundle), timestep, folder))
        half = convert_float_to_float16(model, disable_shape_infer=True)
        file = folder / "half.onnx"
        onnx.save_model(half, file, save_as_external_data=True, location="half.bin")
        session = ort.InferenceSession(file, providers=[(target.provider, target.options)])
    if target.provider not in session.get_providers():
        raise EngineError("ONNX Runtime's CUDA provider did not start; its own words are on stderr")
    binding = session.io_binding()
    for name, image in zip(("noisy", "condition"), random_images(batch, size)):
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(
            image.astype(np.float16), target.device, target.device_id))
    output = ort.OrtValue.ortvalue_from_shape_and_type((batch, 3, size, size), np.float16,
                                                       target.device, target.device_id)
    binding.bind_ortvalue_output("prediction", output)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return 1e3 * (time.perf_counter() - start) / steps
    run()
    times = [run() for _ in range(repeats)]
    return {"ms": statistics.median(times), "spread": max(times) / min(times) - 1,
            "what": f"onnxruntime {ort.__version__}, float16, no operators of ours, CUDA graph"}


CANDIDATES: dict[str, Callable[..., dict[str, Any]]] = {
    "ours": time_ours, "torch": time_torch, "onnxruntime": time_onnxruntime}
