"""Runtimes, engines and execution contexts. What TensorRT demands of its callers is checked."""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import nodes
from .building import read_plan
from .objects import Object, Refused, checked, injected
from .parsing import TYPES
from .program import Program

ALIGNMENT = 256
_FAILURES = (Refused, nodes.NodeError, nodes.DriverError)


def _sentence(error: Exception) -> str:
    if getattr(error, "code", None) == 2:
        return "Error Code 2: OutOfMemory (Requested amount of GPU memory could not be allocated.)"
    return str(error)


class Runtime(Object):
    """Reads plans."""

    def __init__(self, logger: Any) -> None:
        self._logger = checked(logger, self._trt.ILogger)
        nodes.ensure_context()

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        try:
            return self._trt.ICudaEngine(self._logger, *self._open(serialized_engine))
        except _FAILURES as error:
            return self._log(_sentence(error)) or None

    def _open(self, plan: Any) -> tuple[dict[str, Any], Program]:
        header, model = read_plan(plan)
        if (header["tensorrt"] != self._trt.__version__
                or nodes.device().architecture not in header["architectures"]):
            raise Refused("Error Code 6: API Usage Error (the plan is of another version or GPU: "
                          f"{header['tensorrt']}, {header['architectures']})")
        if injected("deserialize"):
            raise Refused("Error Code 2: OutOfMemory (Requested size could not be allocated.)")
        return header, Program(model, {
            index: nodes.made(node, self._trt._version[0])
            for index, node in enumerate(model.graph.node) if node.domain == nodes.NAMESPACE})


class ICudaEngine(Object):
    """A plan with its weights on the GPU."""

    def __init__(self, logger: Any, header: dict[str, Any], program: Program) -> None:
        self._logger, self._header, self._program = logger, header, program
        self._profile = header["profiles"][0]
        self._tensors = [*program.inputs, *program.outputs]
        self._weights = nodes.DeviceMemory(sum(one.nbytes for one in program.constants.values()))
        for part in program.parts:
            if part.plugin is not None:
                part.plugin.load()
        self._size = self._activations({name: shapes[2] for name, shapes in self._profile.items()})
        # Before TensorRT 10 each context of an engine of many shapes has a profile of its own.
        self._apart = self._trt._version[0] < 10 and any(
            -1 in shape for shape in program.inputs.values())
        self._contexts: list[weakref.ref[Any]] = []

    def _activations(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Bytes, the more the larger the shapes are; nothing is computed there."""
        return ALIGNMENT * sum(int(np.prod(shape)) for shape in shapes.values())

    num_io_tensors = property(lambda self: len(self._tensors))
    device_memory_size = property(lambda self: self._size)

    def get_tensor_name(self, index: int) -> str:
        return self._tensors[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name in self._program.inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._trt.DataType, TYPES[self._program.types[name]])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._program.inputs[name]

    def create_runtime_config(self) -> Any:
        return self._trt.IRuntimeConfig()

    def create_execution_context(self, strategy: Any) -> Any:
        if self._trt._rtx:
            strategy._cache._content = f"kernels of {len(self._program.parts)} parts".encode()
            strategy = strategy._strategy
        assert self._of("ExecutionContextAllocationStrategy", strategy) == "USER_MANAGED"
        return self._context()

    def create_execution_context_without_device_memory(self) -> Any:
        return self._context()

    def _context(self) -> Any:
        if injected("context"):
            return self._log("Error Code 2: OutOfMemory (Requested amount of GPU memory could not "
                             "be allocated.)") or None
        made = self._trt.IExecutionContext(self)
        self._contexts.append(weakref.ref(made))
        return made


class IRuntimeConfig(Object):
    """How TensorRT-RTX makes a context."""

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self._trt.IRuntimeCache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self._cache = cache
        return True


class IRuntimeCache(Object):
    """What TensorRT-RTX compiled."""

    _content = b""

    def serialize(self) -> Any:
        return self._trt.IHostMemory(self._content)

    def deserialize(self, blob: Any) -> bool:
        self._content = bytes(blob)
        return True


class IExecutionContext(Object):
    """An engine at one shape at a time, for one thread at a time."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._logger = engine, engine._logger
        # The first of an engine has profile 0 from the start, even if it is no more.
        self._profile = -1 if engine._apart and engine._contexts else 0
        self._addresses: dict[str, int] = {}
        self._memory, self._memory_size = 0, 0
        self._shapes = {name: shape for name, shape in engine._program.inputs.items()
                        if -1 not in shape}
        self._warm = False
        self._busy = threading.Lock()
        self._changes = [0]  # after one, a graph that was captured before is undefined
        # What captured graphs use. They may outlive the context, which is the caller's mistake.
        self._keep: list[object] = []

    active_optimization_profile = property(lambda self: self._profile)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        others = [context() for context in self._engine._contexts]
        if profile_index != 0 or self._engine._apart and any(
                one is not None and one is not self and one._profile == 0 for one in others):
            return self._log("Error Code 3: API Usage Error (the profile is used by another "
                             "execution context)")
        self._profile = 0
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        shape = tuple(operator.index(size) for size in shape)
        least, _, most = self._engine._profile.get(name, [()] * 3)
        if self._profile < 0 or len(shape) != len(least) or any(
                not a <= size <= b for a, size, b in zip(least, shape, most)):
            return self._log(
                "Error Code 3: API Usage Error (Static dimension or profile mismatch while setting "
                f"input shape for {name}. Set dimensions are {list(shape)}. Expected dimensions are"
                f" {list(least)} to {list(most)}.)")
        if self._shapes.get(name) != shape:
            self._shapes[name], self._warm = shape, False
            self._changes[0] += 1
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors or operator.index(memory) % ALIGNMENT:
            return self._log(f"Error Code 3: API Usage Error (no tensor {name}, or its address is "
                             f"not aligned to {ALIGNMENT} bytes)")
        self._addresses[name] = memory
        self._changes[0] += 1
        return True

    device_memory = property(lambda self: self._memory, lambda self, memory:
                             self._take(memory, self._engine._size))

    def set_device_memory(self, memory: int, size: int) -> None:
        self._take(memory, operator.index(size))

    def _take(self, memory: int, size: int) -> None:
        self._memory, self._memory_size = operator.index(memory), size
        self._changes[0] += 1

    def update_device_memory_size_for_shapes(self) -> int:
        return self._engine._activations(self._shapes)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._busy.acquire(blocking=False), "two threads use one execution context at once"
        try:
            self._enqueue(operator.index(stream_handle))
            return True
        except _FAILURES as error:
            return self._log(_sentence(error))
        finally:
            self._busy.release()

    def _enqueue(self, stream: int) -> None:
        program, size = self._engine._program, self._engine._activations(self._shapes)
        if missing := program.inputs.keys() - self._shapes.keys():
            raise Refused(f"Error Code 3: API Usage Error (the shapes of {missing} are not set)")
        if size > self._memory_size or self._memory % ALIGNMENT:
            raise Refused(f"Error Code 3: API Usage Error ({size} aligned bytes of device memory "
                          f"are needed, {self._memory_size} were given)")
        _at("device memory", self._memory, (size,), np.uint8)
        addresses = {name: self._addresses.get(name, 0) for name in self._engine._tensors}
        feeds = {name: _at(name, addresses[name], self._shapes[name], program.dtype(name))
                 for name in program.inputs}
        if injected("enqueue"):
            raise Refused("Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
        capturing = int(nodes.call("cuStreamIsCapturing", stream)) != 0
        if capturing and not self._warm:
            raise Refused("enqueueV3 must be called once at these shapes before it is captured: "
                          "operation not permitted when stream is capturing")

        memory, changes, expected = self._memory, self._changes, self._changes[0]

        def work() -> None:  # which a captured graph keeps, and so must not refer to the context
            assert changes[0] == expected, "the context was changed since this was captured"
            _at("device memory", memory, (size,), np.uint8)[...] = 0
            for name, value in program.run(feeds).items():
                _at(name, addresses[name], value.shape, value.dtype)[...] = value

        nodes.launch(stream, work, self._keep if capturing else [])
        self._warm = True


def _at(name: str, address: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """What would be an illegal access on a GPU is a bug that has to be seen."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size and not nodes.is_allocated(address, size):
        raise Refused("Error Code 1: Cuda Runtime (an illegal memory access was encountered: "
                      f"{name} of {size} bytes at {address:#x})")
    return nodes.view(address, tuple(shape), dtype)
