"""The candidates of a benchmark: the packed engine and its baselines, behind one call.

Run as a program, ``python -m bidiff_deploy.proof.bench.candidates``, it loads one candidate in a
separate process and prints what only a fresh process shows: time to load, time of the first run,
processor time and peak memory.
"""

from __future__ import annotations

import abc
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.record import Bundle, NoisePredictorBundle
from ...bundle.step_graphs import StepGraphs
from ...engines import ON_GPU
from ...engines.noise_predictor import NoisePredictor
from ...engines.one_run import OneRun
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


Feeds = Mapping[str, np.ndarray]
_CPU_RUNS = 3  # of which the least processor time counts


class Candidate(abc.ABC):
    """A loaded step, or network that runs once: call it with ``inputs``."""

    description: str

    @abc.abstractmethod
    def __call__(self, feeds: Feeds) -> np.ndarray:
        """The graph's output, float32 (N, 3, H, W)."""

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

        self._engine = load_bundle(bundle, threads=threads, backend=backend, device=device)
        self._timestep = timestep
        self.description = self._engine.description

    def __call__(self, feeds: Feeds) -> np.ndarray:
        if isinstance(self._engine, OneRun):
            return self._engine.enlarge(*feeds.values())
        assert isinstance(self._engine, NoisePredictor)
        return self._engine.predict(feeds["noisy"], feeds["condition"], self._timestep)

    def close(self) -> None:
        self._engine.close()


class _Torch(Candidate):
    def __init__(self, bundle: Path, timestep: int, threads: int) -> None:
        from ...bundle.manifest import open_bundle
        from .folded import folded_network

        opened = open_bundle(bundle)
        if not isinstance(opened, NoisePredictorBundle):
            raise EngineError("torch is a baseline of diffusion models only; measure a "
                              "feed-forward network against onnxruntime")
        self._network = folded_network(opened, timestep)
        import torch

        torch.set_num_threads(threads)
        self._torch, self._timestep = torch, timestep
        self.description = f"torch {torch.__version__}, channels_last, folded float32"

    def __call__(self, feeds: Feeds) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode():
            inputs = [torch.from_numpy(feeds[name]).contiguous(memory_format=torch.channels_last)
                      for name in ("noisy", "condition")]
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

    def __call__(self, feeds: Feeds) -> np.ndarray:
        found: np.ndarray = self._session.run(None, dict(feeds))[0]
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

    def __call__(self, feeds: Feeds) -> np.ndarray:
        return np.array(self._request.infer(dict(feeds))[0], np.float32)


def inputs(bundle: Bundle, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The inputs of the bundle's graph for one image, float32 (1, 3, H, W), the same in every
    process: the noise in a latent, or none, and an image."""
    generator = np.random.default_rng(0)
    found = {}
    for value in StepGraphs(bundle).built.model.graph.input:
        shape = 1, 3, *size
        found[value.name] = (generator.standard_normal(shape).astype(np.float32)
                             if value.name == "noisy" else generator.random(shape, np.float32))
    return found


def _cpu_seconds(candidate: Candidate, feeds: Feeds) -> float:
    """Processor time of a run, of all threads."""
    before = time.process_time()
    candidate(feeds)
    return time.process_time() - before


def main(arguments: list[str]) -> None:
    """Arguments: a candidate's name, bundle, timestep, height, width, threads, folder and, for
    candidates on a GPU, its number."""
    from ...bundle.manifest import open_bundle
    from ...machine import peak_memory

    name, bundle, timestep, height, width, threads, folder, *device = arguments
    try:
        started = time.perf_counter()
        candidate = load(name, Path(bundle), int(timestep), int(threads), Path(folder),
                         *map(int, device))
        loaded = time.perf_counter()
        feeds = inputs(open_bundle(bundle, verify=False), (int(height), int(width)))
        before = time.perf_counter()
        candidate(feeds)
        first = time.perf_counter() - before
        used = min(_cpu_seconds(candidate, feeds) for _ in range(_CPU_RUNS))
        candidate.close()
    except (EngineError, UsageError) as error:
        print(json.dumps({"error": str(error)}))
        return
    print(json.dumps({"load_seconds": loaded - started, "first_run_seconds": first,
                      "cpu_seconds": used, "peak_memory": peak_memory(),
                      "description": candidate.description}))


if __name__ == "__main__":
    main(sys.argv[1:])
