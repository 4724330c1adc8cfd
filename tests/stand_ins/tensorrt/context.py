"""Execution contexts. What TensorRT demands of its callers is checked here."""

from __future__ import annotations

import operator
import sys
import threading
from collections.abc import Sequence
from typing import Any

from . import nodes
from .building import injected
from .program import Laid, Refused
from .running import told

_ALIGNMENT = 256


class IExecutionContext:
    """An engine at one shape at a time, for one thread at a time."""

    def _create(self, engine: Any, own: bool) -> None:
        self._engine = engine
        # The first of an engine has profile 0 from the start, even if it is no more.
        self._profile = -1 if engine._apart and engine._contexts else 0
        self._addresses: dict[str, int] = {}
        self._memory: int | None = None
        self._memory_size = 0
        self._own = nodes.DeviceMemory(engine._size) if own else None
        if self._own is not None:
            self._memory, self._memory_size = self._own.address, engine._size
        self._static = {name: shape for name, (_, shape) in engine._program.inputs.items()
                        if -1 not in shape}
        self._shapes = dict(self._static)
        self._laid: Laid | None = None
        self._warm = False
        self._busy = threading.Lock()
        # What captured graphs use. They may outlive the context, which is the caller's mistake.
        self._keep: list[object] = []
        self._label = ""

    engine = property(lambda self: self._engine)
    active_optimization_profile = property(lambda self: self._profile)

    @property
    def name(self) -> str:
        return self._label

    @name.setter
    def name(self, value: str) -> None:
        self._label = value

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < len(self._engine._profiles):
            return self._engine._fail(f"no optimization profile {profile_index}")
        if self._engine._taken(profile_index, self):
            return self._engine._fail(f"Error Code 3: API Usage Error (profile {profile_index} is "
                                      "used by another execution context)")
        self._profile, self._shapes = profile_index, dict(self._static)
        self._laid, self._warm = None, False
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        shape = tuple(operator.index(size) for size in shape)
        if self._profile < 0:
            return self._engine._fail("Error Code 3: API Usage Error (no optimization profile was "
                                      "selected)")
        profile = self._engine._profiles[self._profile]
        if name not in profile:
            return self._engine._fail(f"Error Code 3: API Usage Error ({name} is no input)")
        least, _, most = profile[name]
        if len(shape) != len(least) or any(not a <= size <= b
                                           for a, size, b in zip(least, shape, most)):
            return self._engine._fail(
                "Error Code 3: API Usage Error (Parameter check failed, condition: engineDims.d[i] "
                f"== dims.d[i]. Static dimension or profile mismatch while setting input shape for "
                f"{name}. Set dimensions are {list(shape)}. Expected dimensions are {list(least)} "
                f"to {list(most)}.)")
        if self._shapes.get(name) != shape:
            self._shapes[name] = shape
            self._laid, self._warm = None, False
        return True

    def get_tensor_shape(self, name: str) -> Any:
        if name in self._shapes:
            return self._trt.Dims(self._shapes[name])
        laid = self._lay()
        if laid is None or name not in laid.shapes:
            return self._engine.get_tensor_shape(name)
        return self._trt.Dims(laid.shapes[name])

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._program.inputs if name not in self._shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        memory = operator.index(memory)
        if name not in self._engine._names:
            return self._engine._fail(f"Error Code 3: API Usage Error (no tensor {name})")
        if memory % _ALIGNMENT:
            return self._engine._fail(f"the address of {name} must be aligned to {_ALIGNMENT} "
                                      "bytes")
        self._addresses[name] = memory
        return True

    @property
    def device_memory(self) -> int:
        return self._memory or 0

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        self._take(memory, self._engine._size)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._take(memory, operator.index(size))

    def _take(self, memory: int, size: int) -> None:
        self._memory, self._memory_size = operator.index(memory), size

    def update_device_memory_size_for_shapes(self) -> int:
        laid = self._lay()
        return 0 if laid is None else laid.size

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self._busy.acquire(blocking=False):
            raise AssertionError("two threads use one execution context at once")
        try:
            self._enqueue(operator.index(stream_handle))
            return True
        except (Refused, nodes.NodeError, nodes.DriverError) as error:
            return self._engine._fail(told(error))
        finally:
            self._busy.release()

    def _enqueue(self, stream: int) -> None:
        if injected("enqueue"):
            raise Refused("Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
        program = self._engine._program
        if self._profile < 0:
            raise Refused("Error Code 3: API Usage Error (no optimization profile was selected)")
        if missing := self.infer_shapes():
            raise Refused("Error Code 3: API Usage Error (Parameter check failed, condition: "
                          f"allInputDimensionsSpecified. The shape of {missing[0]} is not set)")
        laid = self._lay()
        if laid is None:
            raise Refused("Error Code 3: API Usage Error (shapes that do not go together)")
        for name in self._engine._names:
            size = program.byte_count(name, laid.shapes[name])
            if not self._addresses.get(name):
                raise Refused("Error Code 3: API Usage Error (Parameter check failed, condition: "
                              f"mContext.profileObliviousBindings.at(profileObliviousIndex) || "
                              f"getPtrOrNull. No address for {name} before enqueueV3)")
            _expect(self._addresses[name], size, name)
        if laid.size:
            if self._memory is None:
                raise Refused("Error Code 3: API Usage Error (device memory of a context without "
                              "any was not set)")
            if self._memory_size < laid.size:
                raise Refused(f"Error Code 3: API Usage Error ({laid.size} bytes of device memory "
                              f"are needed, {self._memory_size} were given)")
            if self._memory % _ALIGNMENT:
                raise Refused(f"device memory must be aligned to {_ALIGNMENT} bytes")
            _expect(self._memory, laid.size, "device memory")
        capturing = nodes.is_capturing(stream)
        if capturing and not self._warm:
            raise Refused("enqueueV3 must be called once at these shapes before it is captured: "
                          "operation not permitted when stream is capturing")
        keep: list[object] = self._keep if capturing else []
        weights = {name: memory.address for name, memory in self._engine._weights.items()}
        program.enqueue(laid, {**weights, **self._addresses}, self._memory or 0, stream, keep)
        self._warm = True

    def _lay(self) -> Laid | None:
        if self._laid is None and not self.infer_shapes():
            try:
                # Workspaces as at the largest shape, and no smaller.
                self._laid = self._engine._program.lay(
                    self._shapes, self._engine._workspaces[self._profile])
            except Refused as error:
                self._engine._fail(str(error))
        return self._laid


def _expect(address: int, size: int, name: str) -> None:
    """What would be an illegal access on a GPU is a bug that has to be seen."""
    if not nodes.is_allocated(address, size):
        print(f"stand-in: {name} is given {address:#x}, where {size} bytes are not allocated",
              file=sys.stderr)
        raise Refused("Error Code 1: Cuda Runtime (an illegal memory access was encountered)")


TEMPLATES = {"IExecutionContext": IExecutionContext}
