"""What engines on a GPU share, whatever runs their graphs.

A backend says how the buffers of a shape are made (``_new_step``) and which runtime it is. All of
an engine's work on the device is done by one thread of its own, so any threads may share an engine.
Buffers are kept for a few shapes; what fails gives those of its shape back, and the next call
begins anew.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from ...bundle.manifest import Bundle
from ...bundle.step_graphs import StepGraphs
from ...errors import BidiffError, EngineError
from ...images.tiles import MIN_TILE, TilePlan
from ...networks.bi_diffsr.memory import cuda_step_bytes
from ...sampling import sampler
from ...sampling.sampler import OnStep
from ..noise_predictor import NoisePredictor
from ..tile_choice import Tile
from .step_rows import StepRows
from .thread import DeviceThread

__all__ = ["DeviceEngine", "DeviceFailure", "Factors", "Step"]

SHAPES = 4  # whose buffers and captured graphs are kept
PREDICT = (np.float32(0), np.float32(1), np.float32(1), np.float32(0))  # an update of no meaning
OUT_OF_MEMORY = ("out of memory", "out_of_memory", "failed to allocate", "has no room for",
                 "bfcarena", "alloc_failed")
# After these a process can not use the GPU any more.
LOST = ("illegal memory access", "illegal_address", "launch_failed", "unspecified launch failure",
        "misaligned", "illegal instruction", "illegal_instruction", "launch_timeout",
        "launch timed out")
Factors = Sequence[np.float32]
_Result = TypeVar("_Result")


class DeviceFailure(EngineError):
    """What a device or its driver refuses: in the midst of a step, the buffers of its shape are
    given back."""

    out_of_memory = False  # known to be that, whatever the text says


class Step(Protocol):
    """The buffers of one shape on a device; every call is made by the device's thread."""

    def load(self, latent: np.ndarray, condition: np.ndarray) -> None:
        """Copy the loop's first latent and its condition to the device."""

    def run(self, row: np.ndarray) -> None:
        """One step with the constants of a row of ``StepRows``."""

    def prediction(self) -> np.ndarray:
        """What the network saw in the last run, float32, copied to the host."""

    def latent(self) -> np.ndarray:
        """What the last run's update made of the latent, float32, copied to the host."""

    def release(self) -> None:
        """Give back what is held."""


class DeviceEngine(NoisePredictor):
    """One set of buffers on the device for each shape. A subclass sets ``_device`` (which has a
    ``name``) and ``_free``, the bytes that are free once it is open."""

    runtime: ClassVar[str]  # in sentences
    _device: Any
    _free: int

    def __init__(self, bundle: Bundle, graphs: StepGraphs, *, rows_apart: bool = False) -> None:
        """``graphs`` of the bundle; ``rows_apart``: what runs takes the steps' constants as
        ``step_rows.rows_apart`` has them. Starts the device's thread."""
        super().__init__(bundle)
        self._rows = StepRows(graphs, self.timesteps[0], apart=rows_apart)
        self._steps: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        # One step at a time: buffers, and the workspace of the kernels, are shared.
        self._lock = threading.RLock()
        self._busy = False
        self._thread = DeviceThread()

    @abc.abstractmethod
    def _new_step(self, shape: tuple[int, ...]) -> Step:
        """Buffers of a shape, in the device's thread."""

    @abc.abstractmethod
    def _reason(self, error: Exception) -> str:
        """What the runtime says, in a few words."""

    def _free_device(self) -> None:
        """Give back, in the device's thread, what is held beside the steps' buffers."""

    @property
    def precision(self) -> str:
        """As the protocol has it; bfloat16 is left unused."""
        return "float16" if self.bundle.precision == "float16" else "float32"

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
        def one(step: Step) -> np.ndarray:
            step.load(noisy, condition)
            step.run(self._rows.row(timestep, PREDICT))
            return step.prediction()

        with self._alone():
            return self._with_step(noisy.shape, one)

    def _loop(self, condition: np.ndarray, noise: np.ndarray, timesteps: tuple[int, ...],
              start: int | None, on_step: OnStep | None) -> np.ndarray:
        """``sampler.sample`` with nothing copied to the host but the last latent."""
        alphas = sampler.visited_alphas(timesteps, self.schedule)
        factors = [sampler.update_factors(*pair) for pair in zip(alphas, alphas[1:])]
        with self._alone():
            first = sampler.first_latent(condition, noise, alphas[0], start)
            latent = self._run_loop(first, condition, timesteps, factors, on_step)
        # What is not finite in any step stays so: the update adds a multiple of each prediction.
        if not np.isfinite(latent).all():
            raise EngineError("the loop's result holds values that are not finite; check the "
                              "bundle")
        return np.clip(latent, np.float32(0), np.float32(1))

    def _run_loop(self, first: np.ndarray, condition: np.ndarray, timesteps: tuple[int, ...],
                  factors: Sequence[Factors], on_step: OnStep | None) -> np.ndarray:
        """The latent after all steps, not clipped."""
        shape = condition.shape
        self._with_step(shape, lambda step: step.load(first, condition))
        for index, timestep in enumerate(timesteps):
            self._with_step(shape, lambda step, t=timestep, values=factors[index]: step.run(
                self._rows.row(t, values)))
            if on_step is not None:
                on_step(index + 1, len(timesteps))
        return self._with_step(shape, lambda step: step.latent())

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

    def _with_step(self, shape: tuple[int, ...], action: Callable[[Any], _Result]) -> _Result:
        """What ``action`` makes of the buffers of a shape, in the device's thread."""
        self._check_open()  # a callback, or who had the lock before, may have closed it
        return self._thread.call(self._act, shape, action)

    def _act(self, shape: tuple[int, ...], action: Callable[[Any], _Result]) -> _Result:
        try:
            return action(self._step(shape))
        except DeviceFailure as error:
            told = self._failure(error, shape)
        except BidiffError:
            raise
        except Exception as error:  # runtimes raise classes of their C extensions
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

    def _step(self, shape: tuple[int, ...]) -> Any:
        if shape in self._steps:
            self._steps.move_to_end(shape)
            return self._steps[shape]
        if len(self._steps) >= SHAPES:
            _, oldest = self._steps.popitem(last=False)
            oldest.release()
        self._steps[shape] = self._new_step(shape)
        return self._steps[shape]

    def _failure(self, error: Exception, shape: tuple[int, ...]) -> str:
        batch, _, height, width = shape
        text = self._reason(error)
        tried = f"a step at {width}x{height}" + (f", batch {batch}" if batch > 1 else "")
        if not (getattr(error, "out_of_memory", False)
                or any(sign in text.lower() for sign in OUT_OF_MEMORY)):
            lost = any(sign in text.lower() for sign in LOST)
            return (f"{self.runtime} could not run {tried}{',' * (batch > 1)} on "
                    f"{self._device.name}: {text}" + "; start the program anew" * lost)
        fixed = self.step_bytes(0, 0)
        each = self.step_bytes(height, width) - fixed
        told = (f"{self._device.name} has no memory left for {tried}, which needs about "
                f"{fixed + batch * each >> 20} MiB of the {self._free >> 20} MiB that were free: "
                f"{text}")
        # The estimate may be what was wrong: never nearly what failed.
        fits = min((self._room - fixed) // each, batch // 2)
        if fits >= 1 and (fits := self._batch_that_runs(fits, height, width)):
            return f"{told}; make the batch smaller: {fits} {'fits' if fits == 1 else 'fit'}"
        side = self._side_that_fits(max(height, width))
        if side is None:
            return f"{told}; close other programs on the GPU"
        return f"{told}; tiles of {side}x{side} fit: --tile {side}, tile={side} in Python"

    def _batch_that_runs(self, most: int, height: int, width: int) -> int:
        """The largest batch up to ``most`` that this engine can run at all; 0: none."""
        return most

    def _side_that_fits(self, below: int) -> int | None:
        """Side of the largest tile, smaller than what failed, whose step fits."""
        for side in range((below - 1) // MIN_TILE * MIN_TILE, MIN_TILE - 1, -MIN_TILE):
            if self.step_bytes(side, side) <= self._room and self._batch_that_runs(1, side, side):
                return side
        return None

    def _close(self) -> None:
        with self._lock:
            self._thread.call(self._release)
            self._thread.close()

    def _release(self) -> None:
        for shape in list(self._steps):
            self._drop(shape)
        self._free_device()
