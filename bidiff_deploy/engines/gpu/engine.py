"""The base class of engines on a GPU, whichever runtime executes their graphs.

A backend implements ``_new_step``, the buffers of one shape, and names its runtime. One thread of
the engine's own does all its work on the device, so any number of threads may share an engine.
Buffers are kept for a few shapes. A failure releases the buffers of its shape, and the next call
makes them again.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from ...bundle.record import Bundle
from ...errors import BidiffError, EngineError
from ...images.tiles import MIN_TILE, TilePlan
from ...operators.names import INT8
from ..image_engine import ImageEngine
from ..tile_choice import Tile
from .failures import DeviceFailure, context_is_lost, is_out_of_memory
from .library import DeviceInfo
from .thread import DeviceThread

__all__ = ["Buffers", "GpuEngine", "precision_of"]

SHAPES = 4  # buffers and captured graphs are kept for this many
_Result = TypeVar("_Result")


class Buffers(Protocol):
    """The buffers of one shape on a device; every call is made by the device's thread."""

    def release(self) -> None:
        """Release the buffers and captured graphs."""


_Step = TypeVar("_Step", bound=Buffers)


def precision_of(bundle: Bundle) -> str:
    """The type of maps that a bundle runs with on a GPU; bfloat16 is not used there."""
    return "float16" if bundle.precision == "float16" else "float32"


class GpuEngine(ImageEngine, Generic[_Step]):
    """An engine with one set of buffers on the device for each shape of a run's input.

    A subclass sets ``_device`` and ``_free``, the bytes that are free once it is open, and has the
    engine of its kind of network as a later base.
    """

    runtime: str  # its name in sentences
    what: str  # that is run, in sentences
    _device: DeviceInfo
    _free: int

    def __init__(self, bundle: Bundle) -> None:
        """Starts the device's thread."""
        super().__init__(bundle)
        self._steps: OrderedDict[tuple[int, ...], _Step] = OrderedDict()
        # One at a time: the buffers and the kernels' workspace are shared.
        self._lock = threading.RLock()
        self._busy = False
        self._thread = DeviceThread()

    @abc.abstractmethod
    def _new_step(self, shape: tuple[int, ...]) -> _Step:
        """New buffers of a shape; called by the device's thread."""

    @abc.abstractmethod
    def _reason(self, error: Exception) -> str:
        """The runtime's message on one line."""

    def _free_device(self) -> None:
        """Release what else the engine holds; called by the device's thread, after the steps."""

    @property
    def precision(self) -> str:
        """``precision_of`` the bundle; int8 if some of its layers are."""
        return INT8 if self.bundle.precision == INT8 else precision_of(self.bundle)

    @property
    def _ratio(self) -> int:
        """Height of a run's output, over that of its input."""
        return 1

    def step_bytes(self, height: int, width: int) -> int:
        """Estimated bytes on the GPU of a run, for one output of that size."""
        needed = self.bundle.network.gpu_bytes(self.bundle.config, height, width,
                                               half=self.precision == "float16")
        assert needed is not None, "open_engine refuses networks that run on no GPU"
        return needed

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        """As in every engine. ``memory`` is the GPU's; None: nine tenths of what was free when
        the engine was opened."""
        if memory is None and tile == "auto":
            memory = self._room
        # Of the engine of the network's kind, a later base.
        return super().tile_plan(height, width, tile, memory,  # type: ignore[safe-super]
                                 overlap)

    @property
    def _room(self) -> int:
        """Estimated bytes that a run may need."""
        return self._free - self._free // 10

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other threads. Raises EngineError inside a callback of this thread's own loop,
        whose latent would be overwritten."""
        with self._lock:
            if self._busy:
                raise EngineError("on_step cannot use the engine whose loop calls it; open a "
                                  "second engine, or wait until the loop has ended")
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _with_step(self, shape: tuple[int, ...], action: Callable[[_Step], _Result]) -> _Result:
        """The result of ``action`` on the buffers of a shape, run by the device's thread."""
        self._check_open()  # a callback, or the previous owner of the lock, may have closed it
        return self._thread.call(self._act, shape, action)

    def _act(self, shape: tuple[int, ...], action: Callable[[_Step], _Result]) -> _Result:
        try:
            return action(self._step(shape))
        except Exception as error:  # runtimes raise classes of their C extensions
            if isinstance(error, BidiffError) and not isinstance(error, DeviceFailure):
                raise
            failure = self._failure(error, shape)
        # Outside the handler: as this error's context, the first one would keep the buffers alive.
        self._drop(shape)
        raise EngineError(failure)

    def _drop(self, shape: tuple[int, ...]) -> None:
        """Release the buffers of a shape, whose graph may be half captured."""
        step = self._steps.pop(shape, None)
        if step is not None:
            with contextlib.suppress(Exception):  # the first failure is the one to report
                step.release()

    def _step(self, shape: tuple[int, ...]) -> _Step:
        if shape in self._steps:
            self._steps.move_to_end(shape)
            return self._steps[shape]
        if len(self._steps) >= SHAPES:
            _, oldest = self._steps.popitem(last=False)
            oldest.release()
        self._steps[shape] = self._new_step(shape)
        return self._steps[shape]

    def _failure(self, error: Exception, shape: tuple[int, ...]) -> str:
        """The sentence that reports ``error`` of a run at ``shape``."""
        batch, _, height, width = shape
        text = self._reason(error)
        tried = f"{self.what} at {width}x{height}" + (f", batch {batch}" if batch > 1 else "")
        if not (getattr(error, "out_of_memory", False) or is_out_of_memory(text)):
            return (f"{self.runtime} could not run {tried}{',' * (batch > 1)} on "
                    f"{self._device.name}: {text}"
                    + "; restart the program" * context_is_lost(text))
        fixed = self.step_bytes(0, 0)
        each = self.step_bytes(height * self._ratio, width * self._ratio) - fixed
        problem = (f"{self._device.name} has no memory left for {tried}, which needs about "
                   f"{fixed + batch * each >> 20} MiB of the {self._free >> 20} MiB that were "
                   f"free: {text}")
        # The estimate may be too low, so the batch to try is at most half of the one that failed.
        fits = min((self._room - fixed) // each, batch // 2)
        if fits >= 1 and (fits := self._batch_that_runs(fits, height, width)):
            return f"{problem}; make the batch smaller: {fits} {'fits' if fits == 1 else 'fit'}"
        side = self._side_that_fits(max(height, width) * self._ratio)
        if side is None:
            return f"{problem}; close other programs on the GPU"
        return f"{problem}; tiles of {side}x{side} fit: --tile {side}, tile={side} in Python"

    def _batch_that_runs(self, largest: int, height: int, width: int) -> int:
        """The largest batch up to ``largest`` that this engine can run at all, of inputs of that
        size; 0: none."""
        return largest

    def _side_that_fits(self, below: int) -> int | None:
        """Side of the largest tile of the output below ``below`` that fits; None: no tile fits."""
        for side in range((below - 1) // MIN_TILE * MIN_TILE, MIN_TILE - 1, -MIN_TILE):
            rows = -(-side // self._ratio)
            if self.step_bytes(side, side) <= self._room and self._batch_that_runs(1, rows, rows):
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
