"""Runtimes, engines and execution contexts. What TensorRT demands of its callers is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper

from . import nodes
from .building import read_plan
from .objects import Object, Refused, injected
from .parsing import TYPES
from .program import Program

ALIGNMENT = 256
_NO_MEMORY = "Error Code 2: OutOfMemory (Requested amount of GPU memory could not be allocated.)"


class Runtime(Object):
    """Reads plans."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        nodes.ensure_context()

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        if injected("deserialize"):
            return self._log(_NO_MEMORY) or None
        header, model = read_plan(serialized_engine)
        try:
            return self._trt.ICudaEngine(self._logger, header, Program(model, {
                index: nodes.made(node, self._trt._version[0])
                for index, node in enumerate(model.graph.node) if node.domain == nodes.NAMESPACE}))
        except Refused as error:
            return self._log(str(error)) or None


class ICudaEngine(Object):
    """A plan with its weights on the GPU."""

    def __init__(self, logger: Any, header: dict[str, Any], program: Program) -> None:
        self._logger, self._program = logger, program
        self._profile = header["profiles"][0]
        self._tensors = [*program.inputs, *program.outputs]
        nodes.take_memory(self, sum(one.nbytes for one in program.constants.values()))
        for node in program.plugin.values():
            node.load()
        self._size = self._activations({name: shapes[2] for name, shapes in self._profile.items()})

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
            strategy._cache._content = f"kernels for {self._size} bytes".encode()
            strategy = strategy._strategy
        assert self._of("ExecutionContextAllocationStrategy", strategy) == "USER_MANAGED"
        return ICudaEngine.create_execution_context_without_device_memory(self)

    def create_execution_context_without_device_memory(self) -> Any:
        if injected("context"):
            return self._log(_NO_MEMORY) or None
        return self._trt.IExecutionContext(self)


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

    def serialize(self) -> bytes:
        return self._content

    def deserialize(self, blob: bytes) -> bool:
        self._content = blob
        return True


class IExecutionContext(Object):
    """An engine at one shape at a time."""

    active_optimization_profile = 0

    def __init__(self, engine: Any) -> None:
        self._engine, self._logger = engine, engine._logger
        self._addresses: dict[str, int] = {}
        self._memory, self._memory_size = 0, 0
        self._shapes = {name: shape for name, shape in engine._program.inputs.items()
                        if -1 not in shape}
        self._warm = False
        self._changes = [0]  # after one, a graph that was captured before is undefined
        # What captured graphs use. They may outlive the context, which is the caller's mistake.
        self._keep: list[object] = []

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        least, _, most = self._engine._profile[name]
        if not all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True)):
            return self._log("Error Code 3: API Usage Error (Static dimension or profile mismatch "
                             f"while setting input shape for {name}: {shape})")
        if self._shapes.get(name) != shape:
            self._shapes[name], self._warm = shape, False
            self._changes[0] += 1
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors or memory % ALIGNMENT:
            return self._log(f"Error Code 3: API Usage Error (no tensor {name}, or its address is "
                             f"not aligned to {ALIGNMENT} bytes)")
        self._addresses[name] = memory
        self._changes[0] += 1
        return True

    device_memory = property(lambda self: self._memory, lambda self, memory:
                             self._take(memory, self._engine._size))

    def set_device_memory(self, memory: int, size: int) -> None:
        self._take(memory, size)

    def _take(self, memory: int, size: int) -> None:
        self._memory, self._memory_size = memory, size
        self._changes[0] += 1

    def update_device_memory_size_for_shapes(self) -> int:
        return self._engine._activations(self._shapes)

    def execute_async_v3(self, stream_handle: int) -> bool:
        try:
            self._enqueue(stream_handle)
            return True
        except Refused as error:
            return self._log(str(error))

    def _enqueue(self, stream: int) -> None:
        program, size = self._engine._program, self._engine._activations(self._shapes)
        if missing := program.inputs.keys() - self._shapes.keys():
            raise Refused(f"Error Code 3: API Usage Error (the shapes of {missing} are not set)")
        if size > self._memory_size or self._memory % ALIGNMENT:
            raise Refused(f"Error Code 3: API Usage Error ({size} aligned bytes of device memory "
                          f"are needed, {self._memory_size} were given)")
        addresses = {name: self._addresses.get(name, 0) for name in self._engine._tensors}
        feeds = {name: nodes.view(name, addresses[name], self._shapes[name],
                                  helper.tensor_dtype_to_np_dtype(program.types[name]))
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
            nodes.view("device memory", memory, (size,), np.uint8)[...] = 0
            for name, value in program.run(feeds).items():
                nodes.view(name, addresses[name], value.shape, value.dtype)[...] = value

        nodes.launch(stream, work, self._keep if capturing else [])
        self._warm = True
