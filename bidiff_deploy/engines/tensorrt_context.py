"""A plan opened for running, and the steps of one shape on it.

An engine holds a plan's weights once. Each shape has an execution context of its own, all contexts
share one block of memory for activations, and everything stands at addresses that do not change:
so a step, or a whole loop, is captured as a CUDA graph once and launched for any timesteps and
factors. What differs between steps is one row of float32: of a loop all rows are copied to a table
on the device at once, and each step begins by copying its own from there.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import EngineError
from .device_engine import DeviceFailure
from .loop_graph import LATENT
from .tensorrt_api import Api
from .tensorrt_device import Device, Graph, Memory
from .tensorrt_plans import Plan

__all__ = ["Activations", "DeviceRows", "OpenPlan", "TensorRtFailure", "TensorRtStep"]

_LOOPS = 2  # captured loops that a shape keeps, by their number of steps
_FLOAT = 4
_IMAGES = ("noisy", "condition")
_PREDICTION = "prediction"


class TensorRtFailure(DeviceFailure):
    """What TensorRT refuses while it runs, in the words of its log."""

    def __init__(self, api: Api, what: str) -> None:
        super().__init__(f"{what}: {api.log.sentence('it tells no reason')}")
        self.out_of_memory = api.log.out_of_memory


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
        found, expected = self._tensors(), {**dict.fromkeys((*_IMAGES, *places), True),
                                            _PREDICTION: False, LATENT: False}
        if found != expected:
            different = sorted(name for name in found.keys() | expected.keys()
                               if found.get(name) != expected.get(name))
            raise EngineError(f"{plan.path} does not fit the bundle, by its tensor {different[0]}; "
                              "build it again with bidiff-deploy build --overwrite")

    def _tensors(self) -> dict[str, bool | None]:
        """Names of inputs and outputs -> whether it is an input; None: not of float32."""
        trt, engine = self._api.trt, self.engine
        found: dict[str, bool | None] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            found[name] = (engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
                           if engine.get_tensor_dtype(name) == trt.DataType.FLOAT else None)
        return found

    def context(self) -> Any:
        """A new execution context without memory for activations."""
        self._api.log.clear()
        strategy = getattr(self._api.trt, "ExecutionContextAllocationStrategy", None)
        made = (self.engine.create_execution_context_without_device_memory() if strategy is None
                else self.engine.create_execution_context(strategy.USER_MANAGED))
        if made is None:
            raise self.failure("no execution context")
        return made

    def activation_bytes(self, context: Any) -> int:
        """What a context needs at its present shape; before TensorRT 10, at the largest."""
        if hasattr(context, "update_device_memory_size_for_shapes"):
            return int(context.update_device_memory_size_for_shapes())
        return int(self.engine.device_memory_size)

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
        self._device, self.bytes = device, _FLOAT * size
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


class TensorRtStep:
    """``device_engine.Step`` by TensorRT: one shape, with the latent in two buffers that change
    places from step to step. Made by the device's thread."""

    def __init__(self, device: Device, opened: OpenPlan, activations: Activations, rows: DeviceRows,
                 shape: Sequence[int],
                 places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        """``places`` as ``StepRows`` has them, of the rows in ``rows``."""
        self.opened = opened
        self._device, self._activations, self._rows = device, activations, rows
        self._shape = tuple(shape)
        self._graphs: list[Graph | None] = [None, None]
        self._loops: OrderedDict[int, Graph | None] = OrderedDict()
        self._side = 0
        self._warm = False
        self._generation = -1
        self._buffers: list[Memory] = []
        self._context: Any = None
        try:
            count = _FLOAT * int(np.prod(self._shape))
            for _ in range(4):
                self._buffers.append(device.allocate(count))
            self._latents, self._condition, self._prediction = (
                self._buffers[:2], self._buffers[2], self._buffers[3])
            self._context = opened.context()
            self._bind(places)
            self._needed = opened.activation_bytes(self._context)
        except BaseException:
            self.release()
            raise

    def _bind(self, places: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
        addresses = {"condition": self._condition.address, _PREDICTION: self._prediction.address,
                     **{name: self._rows.row + _FLOAT * offset
                        for name, (offset, _) in places.items()}}
        for name in _IMAGES:
            if not self._context.set_input_shape(name, self._shape):
                raise self.opened.failure(f"shape {self._shape} of {name}")
        for name, address in addresses.items():
            self._address(name, address)

    def _address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self.opened.failure(f"address of {name}")

    def load(self, latent: np.ndarray, condition: np.ndarray) -> None:
        self._side = 0
        for target, source in ((self._latents[0], latent), (self._condition, condition)):
            self._device.upload(target.address, np.ascontiguousarray(source, np.float32))
        self._device.synchronise()

    def run(self, row: np.ndarray) -> None:
        """One step, done when this returns. The first run of a shape captures nothing: it may be
        the only one, and TensorRT prepares itself in it."""
        self._prepare()
        self._rows.put(row)
        if self._warm and self._graphs[self._side] is None:
            self._graphs[self._side] = self._device.capture(lambda: self._enqueue(self._side))
        graph = self._graphs[self._side]
        if graph is None:
            self._enqueue(self._side)
        else:
            graph.launch()
        self._device.synchronise()
        self._warm = True
        self._side = 1 - self._side

    def loop(self, key: object, rows: Callable[[], np.ndarray], steps: int) -> np.ndarray:
        """The latent after ``steps`` steps of the table that ``rows`` makes and ``key`` stands
        for; the latent that is loaded is where they begin. Captured when their number recurs."""
        self._prepare()
        self._rows.load(key, rows)
        graph = self._loop_graph(steps)
        if graph is None:
            self._steps(steps)
        else:
            graph.launch()
        self._device.synchronise()
        self._warm = True
        self._side = steps % 2
        return self.latent()

    def _loop_graph(self, steps: int) -> Graph | None:
        if steps not in self._loops:
            while len(self._loops) >= _LOOPS:
                _, oldest = self._loops.popitem(last=False)
                if oldest is not None:
                    oldest.release()
            self._loops[steps] = None  # seen once
            return None
        self._loops.move_to_end(steps)
        if self._loops[steps] is None and self._warm:
            self._loops[steps] = self._device.capture(lambda: self._steps(steps))
        return self._loops[steps]

    def _steps(self, steps: int) -> None:
        for step in range(steps):
            self._rows.take(step)
            self._enqueue(step % 2)

    def _enqueue(self, side: int) -> None:
        self._address("noisy", self._latents[side].address)
        self._address(LATENT, self._latents[1 - side].address)
        if not self._context.execute_async_v3(self._device.stream):
            raise self.opened.failure("execute_async_v3")

    def _prepare(self) -> None:
        """Activations where they are now: what was captured elsewhere is of no use."""
        self._activations.ensure(self._needed)
        if self._generation == self._activations.generation:
            return
        self._forget()
        memory = self._activations
        if hasattr(self._context, "set_device_memory"):
            self._context.set_device_memory(memory.address, memory.size)
        else:
            self._context.device_memory = memory.address
        self._generation = memory.generation

    def prediction(self) -> np.ndarray:
        return self._device.download(self._prediction.address, self._shape)

    def latent(self) -> np.ndarray:
        return self._device.download(self._latents[self._side].address, self._shape)

    def _forget(self) -> None:
        graphs = [*self._graphs, *self._loops.values()]
        self._graphs, self._warm = [None, None], False
        self._loops = OrderedDict.fromkeys(self._loops)
        for graph in graphs:
            if graph is not None:
                graph.release()

    def release(self) -> None:
        """Give back graphs, then the context, then the buffers; what one refuses hinders no
        other."""
        for give_back in (self._device.synchronise, self._forget):
            with contextlib.suppress(EngineError):
                give_back()
        self._context = None
        self._rows.forget()
        for memory in self._buffers:
            with contextlib.suppress(EngineError):
                memory.free()
