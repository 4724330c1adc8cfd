"""Backend ``onnxruntime-cuda``: ONNX Runtime on an NVIDIA GPU, with our CUDA kernels.

The graph is derived from the bundle's (``cuda_graph``). A whole loop runs on the device: latent,
condition and results lie there, the update is part of the graph (``loop_graph``), and at a shape
that is seen twice a step is one CUDA graph (``device_step``).
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import sampler
from ..bundle import Bundle
from ..errors import EngineError
from ..memory_model import cuda_step_bytes
from ..sampler import OnStep
from ..tile_choice import Tile
from ..tiling import MIN_TILE, TilePlan
from . import cuda_library
from .base import Engine
from .cuda_graph import CudaGraph, derive
from .cuda_provider import Target, cuda_target, library_file, require_provider
from .device_step import DeviceStep, StepRows
from .loop_graph import append_update
from .onnxruntime import import_onnxruntime, sentence, session_options
from .step_graphs import StepGraphs

_SHAPES = 4  # whose buffers and captured graphs are kept
_OUT_OF_MEMORY = ("out of memory", "failed to allocate", "has no room for", "bfcarena",
                  "alloc_failed")
_PREDICT = (np.float32(0), np.float32(1), np.float32(1), np.float32(0))  # an update of no meaning


class OnnxRuntimeCudaEngine(Engine):
    """One session for all steps, one set of buffers on the device for each shape."""

    kernel = "cuda"

    def __init__(self, bundle: Bundle, *, device_id: int = 0, cuda_graph: bool = True,
                 threads: int | None = None) -> None:
        """Open a verified bundle on GPU ``device_id``; ``cuda_graph``: capture steps at shapes
        that recur. ``threads`` of the little that runs on the CPU. Raises EngineError, each with
        its remedy: no GPU, driver, op library or CUDA provider, or a GPU too old."""
        ort = import_onnxruntime()
        super().__init__(bundle)
        self._ort = ort
        self._target = cuda_target(device_id, cuda_graph)
        file = library_file()
        self._device = cuda_library.device_info(device_id)
        if self._target.device != "cpu":
            require_provider(ort)
        self._origin = cuda_library.load_kernels(device_id)
        graphs = StepGraphs(bundle)
        derived = derive(graphs.promoted(), bundle.config, float16=self.precision == "float16")
        self._rows = StepRows(graphs, self.timesteps[0])
        options = session_options(threads or 1)
        try:
            options.register_custom_ops_library(str(file))
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise EngineError(f"{file} could not be registered with onnxruntime: "
                              f"{sentence(error)}") from None
        self._session = _open_session(ort, bundle, derived, options, self._target)
        self._steps: OrderedDict[tuple[int, ...], DeviceStep] = OrderedDict()
        self._next_graph = 1
        # One step at a time: buffers, and the workspace of the kernels, are shared.
        self._lock = threading.RLock()
        self._free, _ = _device_memory(device_id)

    @property
    def precision(self) -> str:
        """As the protocol has it; bfloat16 is left unused."""
        return "float16" if self.bundle.precision == "float16" else "float32"

    @property
    def description(self) -> str:
        """Backend, version, GPU, kernels and precision in a few words."""
        return (f"onnxruntime {self._ort.__version__}, {self._device.name}, kernels: "
                f"{self._origin}, {self.precision}")

    def step_bytes(self, height: int, width: int) -> int:
        return cuda_step_bytes(self.bundle.config, height, width,
                               half=self.precision == "float16")

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        """As every engine's; ``memory`` is the GPU's, by default what was free when the engine
        was opened, less a tenth."""
        if memory is None and tile == "auto":
            memory = self._free - self._free // 10
        return super().tile_plan(height, width, tile, memory, overlap)

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        with self._running(noisy.shape) as step:
            step.load(noisy, condition)
            step.run(self._rows.row(timestep, _PREDICT))
            return step.prediction()

    def _loop(self, condition: np.ndarray, noise: np.ndarray, timesteps: tuple[int, ...],
              start: int | None, on_step: OnStep | None) -> np.ndarray:
        """``sampler.sample`` with nothing copied to the host but the last latent."""
        alphas = sampler.visited_alphas(timesteps, self.schedule)
        with self._lock:
            with self._running(condition.shape) as step:
                step.load(sampler.first_latent(condition, noise, alphas[0], start), condition)
            for index, timestep in enumerate(timesteps):
                factors = sampler.update_factors(alphas[index], alphas[index + 1])
                with self._running(condition.shape) as step:
                    step.run(self._rows.row(timestep, factors))
                if on_step is not None:
                    on_step(index + 1, len(timesteps))
            with self._running(condition.shape) as step:
                latent = step.latent()
        # What is not finite in any step stays so: the update adds a multiple of each prediction.
        if not np.isfinite(latent).all():
            raise EngineError("the loop's result holds values that are not finite; check the "
                              "bundle")
        return np.clip(latent, np.float32(0), np.float32(1))

    @contextlib.contextmanager
    def _running(self, shape: tuple[int, ...]) -> Iterator[DeviceStep]:
        """The buffers of a shape, with errors as sentences."""
        with self._lock:
            try:
                yield self._step(shape)
            except EngineError:
                raise
            except Exception as error:  # onnxruntime raises classes of its C extension
                raise EngineError(self._failure(error, shape)) from None

    def _step(self, shape: tuple[int, ...]) -> DeviceStep:
        if shape in self._steps:
            self._steps.move_to_end(shape)
            return self._steps[shape]
        if len(self._steps) >= _SHAPES:
            _, oldest = self._steps.popitem(last=False)
            oldest.release()
        graphs = self._next_graph, self._next_graph + 1
        self._next_graph += 2
        self._steps[shape] = DeviceStep(self._ort, self._session, self._target, shape,
                                        self._rows.places, self._rows.size, graphs)
        return self._steps[shape]

    def _failure(self, error: Exception, shape: tuple[int, ...]) -> str:
        batch, _, height, width = shape
        text = _reason(error)
        tried = f"a step at {width}x{height}" + (f", batch {batch}," if batch > 1 else "")
        if not any(sign in text.lower() for sign in _OUT_OF_MEMORY):
            return f"onnxruntime could not run {tried} on {self._device.name}: {text}"
        needed = batch * self.step_bytes(height, width)
        told = (f"{self._device.name} has no memory left for {tried}, which needs about "
                f"{needed >> 20} MiB of the {self._free >> 20} MiB that were free: {text}")
        side = self._side_that_fits(max(height, width))
        if batch > 1 and self.step_bytes(height, width) <= self._free:
            return f"{told}; make the batch smaller: 1 fits"
        if side is None:
            return f"{told}; close other programs on the GPU"
        return f"{told}; tiles of {side}x{side} fit: --tile {side}, tile={side} in Python"

    def _side_that_fits(self, below: int) -> int | None:
        """Side of the largest tile, smaller than what failed, whose step fits."""
        for side in range((below - 1) // MIN_TILE * MIN_TILE, MIN_TILE - 1, -MIN_TILE):
            if self.step_bytes(side, side) <= self._free:
                return side
        return None

    def _close(self) -> None:
        with self._lock:
            for step in self._steps.values():
                step.release()
            self._steps.clear()
            self._session = None


def _open_session(ort: Any, bundle: Bundle, derived: CudaGraph, options: Any,
                  target: Target) -> Any:
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # ONNX Runtime copies these once, at creation; the views may not move until then.
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
              for name, value in derived.constants.items()}
    options.add_external_initializers(list(values), list(values.values()))
    model = append_update(derived.model).SerializeToString(deterministic=True)
    settings = target.options
    while True:
        try:
            session = ort.InferenceSession(model, options, enable_fallback=0,
                                           providers=[(target.provider, settings)])
            break
        except Exception as error:
            text = _reason(error)
            if settings.get("enable_cuda_graph") != "1" or "graph capture" not in text:
                raise EngineError(f"{bundle.path} can not be opened by onnxruntime "
                                  f"{ort.__version__} on {target.device}: {text}") from None
            # It places some node on the CPU, which it does not capture.
            warnings.warn(f"onnxruntime {ort.__version__} captures no CUDA graph of this bundle "
                          f"({text}); running without, which is slower", RuntimeWarning,
                          stacklevel=5)
            settings = {**settings, "enable_cuda_graph": "0"}
    if target.provider not in session.get_providers():
        raise EngineError(f"the CUDA provider of onnxruntime {ort.__version__} did not start; its "
                          "own words are above on stderr, and bidiff-deploy doctor shows driver "
                          "and versions")
    return session


def _reason(error: Exception) -> str:
    """What CUDA or ONNX Runtime says, without the places in its source that come before."""
    text = " ".join(str(error).split())
    if found := re.search(r"(CUDA|CUDNN|CUBLAS) failure [^;]{1,200}", text):
        return found[0].strip()
    return sentence(Exception(text.rpartition(" FAIL : ")[2]))


def _device_memory(device_id: int) -> tuple[int, int]:
    """Free and all bytes of a GPU's memory."""
    free, total = ctypes.c_uint64(), ctypes.c_uint64()
    cuda_library.call("memory", device_id, ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value
