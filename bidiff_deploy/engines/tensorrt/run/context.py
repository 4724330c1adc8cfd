"""What the steps of all shapes share: a plan opened for running, memory for activations, and rows.

Names that differ between versions of TensorRT are looked for, not versions.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np

from ....errors import EngineError
from ....graphs.update import LATENT
from ...gpu.failures import DeviceFailure
from ..api import Api
from ..plans import Plan
from .device import Device, Memory

__all__ = ["Activations", "DeviceRows", "FLOAT", "IMAGES", "OpenPlan", "PREDICTION",
           "TensorRtFailure"]

FLOAT = 4  # bytes
IMAGES = ("noisy", "condition")
PREDICTION = "prediction"


class TensorRtFailure(DeviceFailure):
    """What TensorRT refuses while it runs, in the words of its log, which is empty afterwards:
    it is no reason of what fails next."""

    def __init__(self, api: Api, what: str) -> None:
        super().__init__(f"{what}: {api.log.sentence('it tells no reason')}")
        self.out_of_memory = api.log.out_of_memory
        api.log.clear()


class OpenPlan:
    """A deserialised plan: ``plan`` it was read from, ``engine``. Made and released by the device's
    thread."""

    def __init__(self, api: Api, plan: Plan, content: bytes,
                 places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        """``content``: the plan's checked bytes; ``places`` as ``StepRows`` has them. Raises
        EngineError where TensorRT refuses, or the plan does not take what the bundle's steps
        give."""
        self._api, self.plan = api, plan
        self._runtime: Any = api.runtime()
        api.log.clear()
        self.engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            failure = self.failure(f"{plan.path} could not be opened")
            remedy = ("close other programs on the GPU" if failure.out_of_memory else
                      "build it again with bidiff-deploy build --overwrite")
            failure.args = (f"{failure}; {remedy}",)
            raise failure
        expected: dict[str, tuple[bool, tuple[int, ...] | None]] = {
            **dict.fromkeys(IMAGES, (True, ())), **dict.fromkeys((PREDICTION, LATENT), (False, ())),
            **{name: (True, shape) for name, (_, shape) in places.items()}}
        found = self._tensors(places)
        if found != expected:
            different = sorted(name for name in found.keys() | expected.keys()
                               if found.get(name) != expected.get(name))
            raise EngineError(f"{plan.path} does not fit the bundle, by its tensor {different[0]}; "
                              "build it again with bidiff-deploy build --overwrite")

    def _tensors(self, sized: Container[str]) -> dict[str, tuple[bool, tuple[int, ...] | None]]:
        """Names of inputs and outputs -> whether it is an input, and its shape, () of what is not
        ``sized``; None: not of float32."""
        trt, engine = self._api.trt, self.engine
        found: dict[str, tuple[bool, tuple[int, ...] | None]] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = tuple(engine.get_tensor_shape(name)) if name in sized else ()
            found[name] = (engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                           shape if engine.get_tensor_dtype(name) == trt.DataType.FLOAT else None)
        return found

    def context(self, stream: int) -> Any:
        """A new execution context without memory for activations; what it needs is put on
        ``stream``."""
        self._api.log.clear()
        strategy = getattr(self._api.trt, "ExecutionContextAllocationStrategy", None)
        made = (self.engine.create_execution_context_without_device_memory() if strategy is None
                else self.engine.create_execution_context(strategy.USER_MANAGED))
        if made is None:
            raise self.failure("no execution context")
        # Before TensorRT 8.6 only an engine's first context has a profile from the start.
        if made.active_optimization_profile < 0 and not made.set_optimization_profile_async(
                0, stream):
            raise self.failure("the optimization profile")
        return made

    def activation_bytes(self, context: Any) -> int:
        """What a context needs at its present shape; before TensorRT 10, at the largest."""
        if hasattr(context, "update_device_memory_size_for_shapes"):
            return int(context.update_device_memory_size_for_shapes())
        return int(self.engine.device_memory_size)

    @staticmethod
    def give_memory(context: Any, address: int, size: int) -> None:
        """Where a context's activations lie."""
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(address, size)
        else:  # before TensorRT 10.3
            context.device_memory = address

    def failure(self, what: str) -> TensorRtFailure:
        """``what`` failed, and why by TensorRT's log."""
        return TensorRtFailure(self._api, what)

    def release(self) -> None:
        """Give back the engine; its contexts have to be gone."""
        self.engine = self._runtime = None


class Activations:
    """One block of memory for the activations of all contexts, of which one runs at a time.

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
        """Make it at least that large; all work has to be done."""
        if self._memory is None or self.size < count:
            self.release()  # first, or both would have to find room
            self._memory = self._device.allocate(max(count, 1))

    def release(self) -> None:
        if self._memory is not None:
            memory, self._memory = self._memory, None
            self.generation += 1
            memory.free()


class DeviceRows:
    """The row that the next step reads, and a table of a loop's rows, on the device.

    row  address of the row that every step reads
    """

    def __init__(self, device: Device, size: int, most: int) -> None:
        """``size``: floats of a row; ``most``: rows that a loop can have."""
        self._device, self.bytes = device, FLOAT * size
        self._memory = device.allocate(self.bytes * (1 + most))
        self._table: object = None
        self.row = self._memory.address

    def load(self, key: object, rows: Callable[[], np.ndarray]) -> None:
        """Fill the table, float32 (steps, size), unless it holds what ``key`` stands for."""
        if key != self._table:
            self._table = None
            self._device.upload(self._place(0), rows())
            self._table = key

    def put(self, row: np.ndarray) -> None:
        """The row from the host; it must not change before all work is done."""
        self._device.upload(self.row, row)

    def take(self, step: int) -> None:
        """The row from the table."""
        self._device.copy(self.row, self._place(step), self.bytes)

    def forget(self) -> None:
        """What failed may have left the table half filled."""
        self._table = None

    def _place(self, step: int) -> int:
        return self.row + self.bytes * (1 + step)

    def release(self) -> None:
        self._memory.free()
