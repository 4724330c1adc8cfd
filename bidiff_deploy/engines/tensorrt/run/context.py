"""What the steps of all shapes share: an open plan, memory for activations, and rows of constants.

Differences between versions of TensorRT are decided by the names that exist, not by the version.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np

from ....errors import EngineError
from ....graphs.update import LATENT
from ...gpu.failures import DeviceFailure
from ..api import Api
from ..log import NO_REASON
from ..plans import Plan
from .device import Device, Memory
from .runtime_cache import RuntimeCache

__all__ = ["Activations", "DeviceRows", "FLOAT", "IMAGES", "OpenPlan", "PREDICTION",
           "TensorRtFailure"]

FLOAT = 4  # bytes
IMAGES = ("noisy", "condition")
PREDICTION = "prediction"


class TensorRtFailure(DeviceFailure):
    """TensorRT refused a call at run time; the text is that of its log, which is cleared, so that
    the next failure does not report it again."""

    def __init__(self, api: Api, what: str) -> None:
        super().__init__(f"{what}: {api.log.sentence(NO_REASON)}")
        self.out_of_memory = api.log.out_of_memory
        api.log.clear()


class OpenPlan:
    """A deserialised plan; created and released by the device's thread.

    plan    the plan it was read from
    engine  TensorRT's engine
    """

    def __init__(self, api: Api, plan: Plan, content: bytes,
                 places: Mapping[str, tuple[int, tuple[int, ...]]],
                 images: Sequence[str] = IMAGES,
                 outputs: Sequence[str] = (PREDICTION, LATENT)) -> None:
        """``content``: the plan's checked bytes; ``places``: those of ``StepRows``; ``images``,
        ``outputs``: the other inputs and the outputs. Raises EngineError if TensorRT refuses the
        plan, or its inputs and outputs are not those of the bundle's graph."""
        self._api, self.plan = api, plan
        self._runtime: Any = api.runtime()
        self._cache = RuntimeCache(plan.path) if api.rtx else None
        api.log.clear()
        self.engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            failure = self.failure(f"{plan.path} could not be opened")
            remedy = ("close other programs on the GPU" if failure.out_of_memory else
                      "build it again with bidiff-deploy build --overwrite")
            failure.args = (f"{failure}; {remedy}",)
            raise failure
        expected: dict[str, tuple[bool, tuple[int, ...] | None]] = {
            **dict.fromkeys(images, (True, ())), **dict.fromkeys(outputs, (False, ())),
            **{name: (True, shape) for name, (_, shape) in places.items()}}
        found = self._tensors(places)
        if found != expected:
            different = sorted(name for name in found.keys() | expected.keys()
                               if found.get(name) != expected.get(name))
            raise EngineError(f"{plan.path} does not fit the bundle: tensor {different[0]} "
                              "differs; build it again with bidiff-deploy build --overwrite")

    def _tensors(self, sized: Container[str]) -> dict[str, tuple[bool, tuple[int, ...] | None]]:
        """``{name: (is an input, shape)}`` of all inputs and outputs. The shape is () for a tensor
        that is not in ``sized``, None for one that is not float32."""
        trt, engine = self._api.trt, self.engine
        found: dict[str, tuple[bool, tuple[int, ...] | None]] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = tuple(engine.get_tensor_shape(name)) if name in sized else ()
            found[name] = (engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                           shape if engine.get_tensor_dtype(name) == trt.DataType.FLOAT else None)
        return found

    def context(self, stream: int) -> Any:
        """A new execution context without memory for activations; its set-up runs on
        ``stream``."""
        self._api.log.clear()
        strategy = getattr(self._api.trt, "ExecutionContextAllocationStrategy", None)
        if strategy is None:
            made = self.engine.create_execution_context_without_device_memory()
        elif self._cache is not None:
            made = self.engine.create_execution_context(
                self._cache.configured(self.engine, strategy.USER_MANAGED))
        else:
            made = self.engine.create_execution_context(strategy.USER_MANAGED)
        if made is None:
            raise self.failure("no execution context")
        # Before TensorRT 8.6 only an engine's first context has a profile from the start.
        if made.active_optimization_profile < 0 and not made.set_optimization_profile_async(
                0, stream):
            raise self.failure("the optimization profile")
        return made

    def activation_bytes(self, context: Any) -> int:
        """Bytes that a context needs at its current shape; before TensorRT 10, at the largest."""
        if hasattr(context, "update_device_memory_size_for_shapes"):
            return int(context.update_device_memory_size_for_shapes())
        return int(self.engine.device_memory_size)

    @staticmethod
    def give_memory(context: Any, address: int, size: int) -> None:
        """Set the memory of a context's activations."""
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(address, size)
        else:  # before TensorRT 10.3
            context.device_memory = address

    def failure(self, what: str) -> TensorRtFailure:
        """The error that ``what`` failed, with the reason from TensorRT's log."""
        return TensorRtFailure(self._api, what)

    def release(self) -> None:
        """Release the engine; its contexts must be released before."""
        if self._cache is not None:
            self._cache.save()
        self._cache = self.engine = self._runtime = None


class Activations:
    """One block of memory for the activations of all contexts; one context runs at a time.

    generation  changes whenever the block moves
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._memory: Memory | None = None
        self.generation = 0

    @property
    def address(self) -> int:
        return 0 if self._memory is None else self._memory.address

    @property
    def size(self) -> int:
        return 0 if self._memory is None else self._memory.size

    def ensure(self, count: int) -> None:
        """Make the block at least that large; no work may be running."""
        if self._memory is None or self.size < count:
            self.release()  # first, so that both need not fit at once
            self._memory = self._device.allocate(max(count, 1))

    def release(self) -> None:
        if self._memory is not None:
            memory, self._memory = self._memory, None
            self.generation += 1
            memory.free()


class DeviceRows:
    """On the device: the row that the next step reads, and a table of a loop's rows.

    row    address of the row that every step reads
    bytes  of one row
    """

    def __init__(self, device: Device, size: int, max_rows: int) -> None:
        """``size``: length of a row in floats; ``max_rows``: the most rows that a loop has."""
        self._device, self.bytes = device, FLOAT * size
        self._memory = device.allocate(self.bytes * (1 + max_rows))
        self._table: object = None
        self.row = self._memory.address

    def load(self, key: object, rows: Callable[[], np.ndarray]) -> None:
        """Fill the table with ``rows()``, float32 (steps, size), unless it is that of ``key``."""
        if key != self._table:
            self._table = None
            self._device.upload(self._place(0), rows())
            self._table = key

    def put(self, row: np.ndarray) -> None:
        """Copy the row from the host; it must not change before all work is done."""
        self._device.upload(self.row, row)

    def take(self, step: int) -> None:
        """Copy the row of a step from the table."""
        self._device.copy(self.row, self._place(step), self.bytes)

    def forget(self) -> None:
        """Forget the table's content, which a failure may have left incomplete."""
        self._table = None

    def _place(self, step: int) -> int:
        return self.row + self.bytes * (1 + step)

    def release(self) -> None:
        self._memory.free()
