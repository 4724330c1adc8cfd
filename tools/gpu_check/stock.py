"""Times a step of ONNX Runtime's CUDA provider without our operators, with its fastest options."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.engines.onnxruntime.cuda_provider import Target, cuda_target, require_provider
from bidiff_deploy.errors import EngineError, one_line
from tools.checks.timing import random_images


def variants(target: Target) -> dict[str, dict[str, str]]:
    """{layout: options of the provider}: convolutions chosen by timing all, with maps in our layout
    and in the tensor cores' layout; no options without a GPU."""
    if target.device == "cpu":
        return {"CPU": {}}
    best = {**target.options, "cudnn_conv_algo_search": "EXHAUSTIVE"}
    return {"NCHW": best, "NHWC": {**best, "prefer_nhwc": "1"}}


def time_onnxruntime(bundle: Path, timestep: int, batch: int, size: int, repeats: int,
                     steps: int, device: int = 0) -> dict[str, Any]:
    """Milliseconds of the folded graph in float16 with ONNX Runtime's CUDA provider.

    Inputs are bound, and it runs as a CUDA graph if it can be captured. Returns the faster variant,
    and for each variant its figures or the reason why it does not run (older versions do not know
    ``prefer_nhwc``).
    """
    import onnx

    from bidiff_deploy.engines.onnxruntime.session import import_onnxruntime
    from bidiff_deploy.proof.bench.folded import write_folded
    ort = import_onnxruntime()
    target = cuda_target(device, cuda_graph=True)
    if target.device != "cpu":
        require_provider(ort)
    from onnxruntime.transformers.float16 import convert_float_to_float16
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = onnx.load(write_folded(open_bundle(bundle), timestep, folder))
        half = convert_float_to_float16(model, disable_shape_infer=True)
        file = folder / "half.onnx"
        onnx.save_model(half, file, save_as_external_data=True, location="half.bin")
        for variant, options in variants(target).items():
            found[variant] = _time_variant(ort, file, target, options, batch, size, repeats, steps)
    able = {name: entry for name, entry in found.items() if "ms" in entry}
    if not able:
        raise EngineError(next(iter(found.values()))["reason"])
    best = min(able, key=lambda name: float(able[name]["ms"]))
    how = f"{best}, {'CUDA graph' if able[best]['cuda_graph'] else 'no CUDA graph'}"
    return {"ms": able[best]["ms"], "spread": able[best]["spread"], "variants": found,
            "what": f"onnxruntime {ort.__version__}, float16, no operators of ours, {how}"}


def _time_variant(ort: Any, file: Path, target: Target, options: dict[str, str], batch: int,
                  size: int, repeats: int, steps: int) -> dict[str, Any]:
    """ms, spread and cuda_graph, or reason. Retried without a CUDA graph if the first try fails."""
    attempts = [options]
    if options.get("enable_cuda_graph") == "1":
        attempts.append({**options, "enable_cuda_graph": "0"})
    reason = ""
    for given in attempts:
        try:
            times = _times(ort, file, target, given, batch, size, repeats, steps)
        except Exception as error:  # onnxruntime raises classes of its C extension
            reason = reason or one_line(error, 400)
            continue
        return {"ms": statistics.median(times), "spread": max(times) / min(times) - 1,
                "cuda_graph": given.get("enable_cuda_graph") == "1"}
    return {"reason": reason}


def _times(ort: Any, file: Path, target: Target, options: dict[str, str], batch: int, size: int,
           repeats: int, steps: int) -> list[float]:
    """Milliseconds of a step, for each repeat."""
    session = ort.InferenceSession(file, enable_fallback=0,
                                   providers=[(target.provider, options)])
    if target.provider not in session.get_providers():
        raise EngineError("ONNX Runtime's CUDA provider did not start; its error is on stderr")
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
    run()  # chooses the convolutions, and captures
    return [run() for _ in range(repeats)]
