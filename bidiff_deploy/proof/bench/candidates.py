"""The candidates of a benchmark: the packed engine and its baselines, behind one call.

Run as a program, ``python -m bidiff_deploy.proof.bench.candidates``, it loads one candidate in a
separate process and prints what only a fresh process shows: time to load, time of the first run,
and peak memory.
"""

from __future__ import annotations

import abc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.record import Bundle
from ...engines import ON_GPU
from ...engines.noise_predictor import NoisePredictor
from ...engines.onnxruntime.session import import_onnxruntime, session_options
from ...errors import EngineError, UsageError

PACKED = "packed"
# Values of --against -> the candidates that they measure.
BASELINES = {
    "torch": ("torch",), "onnxruntime": ("onnxruntime",),
    "onnxruntime-minus-sign": ("onnxruntime-minus-sign",),
    "openvino": ("openvino", "openvino-bf16"), "openvino-bf16": ("openvino-bf16",),
    **{name: (name,) for name in ON_GPU}}
# Candidates that read a folded ONNX file -> whether it has Sign nodes.
FOLDED = {"onnxruntime": True, "onnxruntime-minus-sign": False, "openvino": True,
          "openvino-bf16": True}


class Candidate(abc.ABC):
    """A loaded step: call it with (noisy, condition), float32 (N, 3, H, W) each."""

    description: str

    @abc.abstractmethod
    def __call__(self, noisy: np.ndarray, condition: np.ndarray) -> np.ndarray:
        """The prediction, float32 (N, 3, H, W)."""

    def close(self) -> None:  # noqa: B027 -- most candidates have nothing to release
        """Release what is not freed with the object."""


def load(name: str, bundle: Path, timestep: int, threads: int, folder: Path,
         device: int = 0) -> Candidate:
    """Load a candidate. Baselines of FOLDED read ``folder``, which ``prepare`` filled; ``device``:
    number of the GPU, for candidates on a GPU.

    Raises EngineError if its package is not installed or this CPU does not support it.
    """
    if name == PACKED:
        return _Packed(bundle, timestep, threads, "onnxruntime")
    if name in ON_GPU:
        return _Packed(bundle, timestep, threads, name, device)
    if name == "torch":
        return _Torch(bundle, timestep, threads)
    if name.startswith("onnxruntime"):
        return _OnnxRuntime(folder / name / "folded.onnx", threads)
    return _OpenVino(folder / "openvino" / "folded.onnx", threads, bf16=name.endswith("bf16"))


def prepare(names: list[str], bundle: Bundle, timestep: int, folder: Path) -> None:
    """Write the graphs that the candidates ``names`` read, below ``folder``."""
    from .folded import write_folded

    for name in names:
        place = folder / ("openvino" if name.startswith("openvino") else name)
        if name in FOLDED and not place.exists():
            place.mkdir()
            write_folded(bundle, timestep, place, sign=FOLDED[name])


class _Packed(Candidate):
    def __init__(self, bundle: Path, timestep: int, threads: int, backend: str,
                 device: int | None = None) -> None:
        from ... import load_bundle

        engine = load_bundle(bundle, threads=threads, backend=backend, device=device)
        assert isinstance(engine, NoisePredictor)
        self._engine, self._timestep = engine, timestep
        self.description = self._engine.description

    def __call__(self, noisy: np.ndarray, condition: np.ndarray) -> np.ndarray:
        return self._engine.predict(noisy, condition, self._timestep)

    def close(self) -> None:
        self._engine.close()


class _Torch(Candidate):
    def __init__(self, bundle: Path, timestep: int, threads: int) -> None:
        from ...bundle.manifest import open_noise_predictor
        from .folded import folded_network

        self._network = folded_network(open_noise_predictor(bundle), timestep)
        import torch

        torch.set_num_threads(threads)
        self._torch, self._timestep = torch, timestep
        self.description = f"torch {torch.__version__}, channels_last, folded float32"

    def __call__(self, noisy: np.ndarray, condition: np.ndarray) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode():
            inputs = [torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
                      for x in (noisy, condition)]
            found: np.ndarray = self._network(*inputs, self._timestep).contiguous().numpy()
            return found


class _OnnxRuntime(Candidate):
    def __init__(self, graph: Path, threads: int) -> None:
        ort = import_onnxruntime()
        # As users of plain ONNX Runtime have it: with its memory patterns.
        options = session_options(threads, memory_pattern=True)
        self._session = ort.InferenceSession(str(graph), options,
                                             providers=["CPUExecutionProvider"])
        self.description = f"onnxruntime {ort.__version__}, folded float32"

    def __call__(self, noisy: np.ndarray, condition: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._session.run(
            ["prediction"], {"noisy": noisy, "condition": condition})[0]
        return found


class _OpenVino(Candidate):
    def __init__(self, graph: Path, threads: int, bf16: bool) -> None:
        try:
            import openvino
        except ImportError:
            raise EngineError("openvino is not installed; pip install openvino") from None
        core = openvino.Core()
        if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this CPU has no bf16 instructions")
        kind = "bf16" if bf16 else "f32"
        compiled = core.compile_model(core.read_model(str(graph)), "CPU", {
            "INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": kind,
            "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"})
        self._request: Any = compiled.create_infer_request()
        self.description = f"openvino {openvino.__version__.split('-')[0]}, folded {kind}"

    def __call__(self, noisy: np.ndarray, condition: np.ndarray) -> np.ndarray:
        found = self._request.infer({"noisy": noisy, "condition": condition})
        return np.array(found["prediction"], np.float32)


def inputs(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Noise and condition of one image, the same in every process."""
    generator = np.random.default_rng(0)
    return (generator.standard_normal((1, 3, *size)).astype(np.float32),
            generator.random((1, 3, *size), np.float32))


def main(arguments: list[str]) -> None:
    """Arguments: a candidate's name, bundle, timestep, height, width, threads, folder and, for
    candidates on a GPU, its number."""
    from ...machine import peak_memory

    name, bundle, timestep, height, width, threads, folder, *device = arguments
    try:
        started = time.perf_counter()
        candidate = load(name, Path(bundle), int(timestep), int(threads), Path(folder),
                         *map(int, device))
        loaded = time.perf_counter()
        noisy, condition = inputs((int(height), int(width)))
        before = time.perf_counter()
        candidate(noisy, condition)
        first = time.perf_counter() - before
        candidate(noisy, condition)
        candidate.close()
    except (EngineError, UsageError) as error:
        print(json.dumps({"error": str(error)}))
        return
    print(json.dumps({"load_seconds": loaded - started, "first_run_seconds": first,
                      "peak_memory": peak_memory(), "description": candidate.description}))


if __name__ == "__main__":
    main(sys.argv[1:])
