"""Backend ``onnxruntime-cuda``: ONNX Runtime on an NVIDIA GPU, with our CUDA kernels.

The graph is derived from the bundle's (``cuda_graph``). A whole loop runs on the device: latent,
condition and results lie there, the update is part of the graph (``loop_graph``), and at a shape
that is seen twice a step is one CUDA graph (``device_step``).

All of an engine's work on the device is done by one thread of its own, so any threads may share an
engine. While it runs the first three steps of a shape, which is when graphs are captured, other
CUDA code of the same process (another engine, or torch) must not allocate or copy on a GPU: CUDA
would break the capture off, and the engine raise EngineError; the next call begins anew.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from .. import sampler
from ..bundle import Bundle
from ..errors import BidiffError, EngineError
from ..memory_model import cuda_step_bytes
from ..sampler import OnStep
from ..tile_choice import Tile
from ..tiling import MIN_TILE, TilePlan
from . import cuda_library
from .base import Engine
from .cuda_graph import derive
from .cuda_provider import cuda_target, library_file, require_provider
from .cuda_session import device_memory, load_kernels, open_session, reason
from .device_step import DeviceStep, StepRows
from .device_thread import DeviceThread
from .onnxruntime import import_onnxruntime, sentence, session_options
from .step_graphs import StepGraphs

_SHAPES = 4  # whose buffers and captured graphs are kept
_OUT_OF_MEMORY = ("out of memory", "failed to allocate", "has no room for", "bfcarena",
                  "alloc_failed")
_PREDICT = (np.float32(0), np.float32(1), np.float32(1), np.float32(0))  # an update of no meaning
_Result = TypeVar("_Result")


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
        self._origin = load_kernels(device_id, self._device.name)
        graphs = StepGraphs(bundle)
        derived = derive(graphs.promoted(), bundle.config, float16=self.precision == "float16")
        self._rows = StepRows(graphs, self.timesteps[0])
        options = session_options(threads or 1)
        try:
            options.register_custom_ops_library(str(file))
        except Exception as error:  # onnxruntime raises classes of its C extension
            raise EngineError(f"{file} could not be registered with onnxruntime: "
                              f"{sentence(error)}") from None
        self._steps: OrderedDict[tuple[int, ...], DeviceStep] = OrderedDict()
        self._next_graph = 1
        # One step at a time: buffers, and the workspace of the kernels, are shared.
        self._lock = threading.RLock()
        self._busy = False
        self._session = open_session(ort, bundle, derived, options, self._target)
        self._free, _ = device_memory(device_id)
        self._thread = DeviceThread()

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
            memory = self._room
        return super().tile_plan(height, width, tile, memory, overlap)

    @property
    def _room(self) -> int:
        """Bytes that a step may need, by the estimate."""
        return self._free - self._free // 10

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        def one(step: DeviceStep) -> np.ndarray:
            step.load(noisy, condition)
            step.run(self._rows.row(timestep, _PREDICT))
            return step.prediction()

        with self._alone():
            return self._with_step(noisy.shape, one)

    def _loop(self, condition: np.ndarray, noise: np.ndarray, timesteps: tuple[int, ...],
              start: int | None, on_step: OnStep | None) -> np.ndarray:
        """``sampler.sample`` with nothing copied to the host but the last latent."""
        alphas = sampler.visited_alphas(timesteps, self.schedule)
        shape = condition.shape
        with self._alone():
            first = sampler.first_latent(condition, noise, alphas[0], start)
            self._with_step(shape, lambda step: step.load(first, condition))
            for index, timestep in enumerate(timesteps):
                factors = sampler.update_factors(alphas[index], alphas[index + 1])
                self._with_step(shape, lambda step, t=timestep, factors=factors: step.run(
                    self._rows.row(t, factors)))
                if on_step is not None:
                    on_step(index + 1, len(timesteps))
            latent = self._with_step(shape, DeviceStep.latent)
        # What is not finite in any step stays so: the update adds a multiple of each prediction.
        if not np.isfinite(latent).all():
            raise EngineError("the loop's result holds values that are not finite; check the "
                              "bundle")
        return np.clip(latent, np.float32(0), np.float32(1))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other threads; refuse what a callback of this thread's own loop asks for,
        whose latent it would overwrite."""
        with self._lock:
            if self._busy:
                raise EngineError("on_step can not use the engine whose loop calls it; open a "
                                  "second engine, or wait until the loop has ended")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _with_step(self, shape: tuple[int, ...],
                   action: Callable[[DeviceStep], _Result]) -> _Result:
        """What ``action`` makes of the buffers of a shape, in the device's thread."""
        self._check_open()  # a callback, or who had the lock before, may have closed it
        return self._thread.call(self._act, shape, action)

    def _act(self, shape: tuple[int, ...], action: Callable[[DeviceStep], _Result]) -> _Result:
        try:
            return action(self._step(shape))
        except BidiffError:
            raise
        except Exception as error:  # onnxruntime raises classes of its C extension
            told = self._failure(error, shape)
        # Not in the handler: as the context of ours, that error would keep the buffers alive.
        self._drop(shape)
        raise EngineError(told)

    def _drop(self, shape: tuple[int, ...]) -> None:
        """Give back what a shape holds, of which a graph may be half captured."""
        step = self._steps.pop(shape, None)
        if step is not None:
            with contextlib.suppress(Exception):  # what failed before is told
                step.release()

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
        text = reason(error)
        tried = f"a step at {width}x{height}" + (f", batch {batch}," if batch > 1 else "")
        if not any(sign in text.lower() for sign in _OUT_OF_MEMORY):
            return f"onnxruntime could not run {tried} on {self._device.name}: {text}"
        fixed = self.step_bytes(0, 0)
        each = self.step_bytes(height, width) - fixed
        told = (f"{self._device.name} has no memory left for {tried}, which needs about "
                f"{fixed + batch * each >> 20} MiB of the {self._free >> 20} MiB that were free: "
                f"{text}")
        # The estimate may be what was wrong: never nearly what failed.
        fits = min((self._room - fixed) // each, batch // 2)
        if fits >= 1:
            return f"{told}; make the batch smaller: {fits} {'fits' if fits == 1 else 'fit'}"
        side = self._side_that_fits(max(height, width))
        if side is None:
            return f"{told}; close other programs on the GPU"
        return f"{told}; tiles of {side}x{side} fit: --tile {side}, tile={side} in Python"

    def _side_that_fits(self, below: int) -> int | None:
        """Side of the largest tile, smaller than what failed, whose step fits."""
        for side in range((below - 1) // MIN_TILE * MIN_TILE, MIN_TILE - 1, -MIN_TILE):
            if self.step_bytes(side, side) <= self._room:
                return side
        return None

    def _close(self) -> None:
        with self._lock:
            self._thread.call(self._release)
            self._thread.close()

    def _release(self) -> None:
        for shape in list(self._steps):
            self._drop(shape)
        self._session = None
