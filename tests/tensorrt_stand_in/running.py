"""Engines and execution contexts. What TensorRT demands of its callers is checked here."""

from __future__ import annotations

import operator
import sys
import threading
from typing import Any, Sequence

import numpy as np

from . import nodes
from .building import checked, injected, read_plan
from .filtered import new
from .parsing import TYPES
from .program import Laid, Program, Refused, constant_bytes

_ALIGNMENT = 256


class Runtime:
    """Reads plans."""

    def __init__(self, logger: Any) -> None:
        self._logger = checked(logger, self._trt.ILogger)
        nodes.ensure_context()

    logger = property(lambda self: self._logger)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        try:
            return new(self._trt.ICudaEngine, self._logger, *_open(self._trt, serialized_engine))
        except (Refused, nodes.NodeError, nodes.DriverError) as error:
            self._logger.log(self._trt.ILogger.Severity.ERROR, _told(error))
            return None


def _told(error: Exception) -> str:
    if getattr(error, "code", None) == 2:
        return "Error Code 2: OutOfMemory (Requested amount of GPU memory could not be allocated.)"
    return str(error)


def _open(trt: Any, plan: Any) -> tuple[dict[str, Any], Program]:
    from .parsing import OnnxParser

    try:
        header, model = read_plan(plan)
    except ValueError:
        raise Refused("Error Code 1: Serialization (Serialization assertion magicTagRead == "
                      "kMAGIC_TAG failed. Magic tag does not match)") from None
    if header["tensorrt"] != trt.__version__:
        raise Refused("Error Code 1: Serialization assertion stdVersionRead == "
                      f"kSERIALIZATION_VERSION failed. Version tag does not match: the plan is of "
                      f"{header['tensorrt']}")
    if header["architecture"] != nodes.device()[1]:
        raise Refused("Error Code 6: API Usage Error (The engine plan file is generated on an "
                      "incompatible device, expecting compute "
                      f"{nodes.device()[1] / 10} got compute {header['architecture'] / 10}, please "
                      "rebuild.)")
    if injected("deserialize"):
        raise Refused("Error Code 2: OutOfMemory (Requested size could not be allocated.)")
    plugin = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in nodes.OPERATORS and node.domain:
            library = nodes.registered(trt._version[0])
            if library is None:
                raise Refused(f"Error Code 1: Serialization (Could not find plugin {node.op_type} "
                              "version 1 namespace bidiff: getPluginCreator returned null)")
            attributes = {entry.name: entry.i for entry in node.attribute}
            plugin[index] = nodes.Node(library, node.op_type, attributes)
    assert OnnxParser is not None
    return header, Program(model, plugin)


class ICudaEngine:
    """A plan with its weights on the GPU."""

    def _create(self, logger: Any, header: dict[str, Any], program: Program) -> None:
        self._logger, self._header, self._program = logger, header, program
        self._profiles = [{name: [tuple(shape) for shape in shapes]
                           for name, shapes in profile.items()} for profile in header["profiles"]]
        self._names = [*program.inputs, *program.outputs]
        # All weights take memory; those that the plugin reads are read there.
        self._weights: dict[str, nodes.DeviceMemory] = {}
        for name, entry in program.constants.items():
            content = np.frombuffer(constant_bytes(entry), np.uint8)
            memory = nodes.DeviceMemory(content.size)
            nodes.view(memory.address, content.shape, np.uint8)[...] = content
            self._weights[name] = memory
        program.load()
        self._laid = [program.lay({name: shapes[2] for name, shapes in profile.items()})
                      for profile in self._profiles]
        self._workspaces = [program.workspaces(laid.given) for laid in self._laid]

    num_io_tensors = property(lambda self: len(self._names))
    num_bindings = property(lambda self: len(self._names))
    num_layers = property(lambda self: self._header["layers"])
    num_optimization_profiles = property(lambda self: len(self._profiles))
    name = property(lambda self: "Unnamed Network 0")
    refittable = property(lambda self: "REFIT" in self._header["flags"])
    has_implicit_batch_dimension = property(lambda self: False)

    @property
    def _size(self) -> int:
        return max(laid.size for laid in self._laid)

    device_memory_size = property(lambda self: self._size)
    device_memory_size_v2 = property(lambda self: self._size)

    def get_device_memory_size_for_profile(self, profile_index: int) -> int:
        return self._laid[profile_index].size

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self._laid[profile_index].size

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return (modes.INPUT if name in self._program.inputs else
                modes.OUTPUT if name in self._program.outputs else modes.NONE)

    def get_tensor_dtype(self, name: str) -> Any:
        if name not in self._names:
            self._fail(f"no tensor {name}")
            return self._trt.DataType.FLOAT
        return getattr(self._trt.DataType, TYPES[self._program.types[name]])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 where it varies; of outputs as the optimum shows."""
        if name in self._program.inputs:
            return self._trt.Dims(self._program.inputs[name][1])
        least, most = (self._program.lay({key: shapes[which] for key, shapes
                                          in self._profiles[0].items()}).shapes[name]
                       for which in (0, 2))
        return self._trt.Dims(a if a == b else -1 for a, b in zip(least, most))

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        return [self._trt.Dims(shape) for shape in self._profiles[profile_index][name]]

    def create_execution_context(self, strategy: Any = None) -> Any:
        own = strategy is None or strategy.name != "USER_MANAGED"
        if strategy is not None and not hasattr(self._trt, "ExecutionContextAllocationStrategy"):
            raise TypeError("create_execution_context(): incompatible function arguments")
        return self._context(own)

    def create_execution_context_without_device_memory(self) -> Any:
        return self._context(False)

    def _context(self, own: bool) -> Any:
        try:
            if injected("context"):
                raise Refused("Error Code 2: OutOfMemory (Requested amount of GPU memory could not "
                              "be allocated.)")
            return new(self._trt.IExecutionContext, self, own)
        except (Refused, nodes.DriverError) as error:
            self._fail(_told(error))
            return None

    def _fail(self, text: str) -> bool:
        self._logger.log(self._trt.ILogger.Severity.ERROR, text)
        return False


class IExecutionContext:
    """An engine at one shape at a time, for one thread at a time."""

    def _create(self, engine: Any, own: bool) -> None:
        self._engine = engine
        self._profile = 0
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
    all_binding_shapes_specified = property(
        lambda self: set(self._shapes) == set(self._engine._program.inputs))

    @property
    def name(self) -> str:
        return self._label

    @name.setter
    def name(self, value: str) -> None:
        self._label = value

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < len(self._engine._profiles):
            return self._engine._fail(f"no optimization profile {profile_index}")
        self._profile, self._shapes = profile_index, dict(self._static)
        self._laid, self._warm = None, False
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        shape = tuple(operator.index(size) for size in shape)
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
            return self._engine._fail(f"the address of {name} must be aligned to {_ALIGNMENT} bytes")
        self._addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

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
            return self._engine._fail(_told(error))
        finally:
            self._busy.release()

    def _enqueue(self, stream: int) -> None:
        if injected("enqueue"):
            raise Refused("Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
        program = self._engine._program
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


TEMPLATES = {"Runtime": Runtime, "ICudaEngine": ICudaEngine,
             "IExecutionContext": IExecutionContext}
