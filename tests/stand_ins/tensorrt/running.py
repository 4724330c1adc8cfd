"""Runtimes and engines: which plans are read, and what they take of the GPU's memory."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from . import nodes
from .building import injected, read_plan
from .filtered import new
from .network import TYPES
from .objects import checked
from .program import Program, Refused, constant_bytes


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
            self._logger.log(self._trt.ILogger.Severity.ERROR, told(error))
            return None


def told(error: Exception) -> str:
    if getattr(error, "code", None) == 2:
        return "Error Code 2: OutOfMemory (Requested amount of GPU memory could not be allocated.)"
    return str(error)


def _open(trt: Any, plan: Any) -> tuple[dict[str, Any], Program]:
    try:
        header, model = read_plan(plan)
    except ValueError:
        raise Refused("Error Code 1: Serialization (Serialization assertion magicTagRead == "
                      "kMAGIC_TAG failed. Magic tag does not match)") from None
    if header["tensorrt"] != trt.__version__:
        raise Refused("Error Code 1: Serialization assertion stdVersionRead == "
                      f"kSERIALIZATION_VERSION failed. Version tag does not match: the plan is of "
                      f"{header['tensorrt']}")
    if nodes.device()[1] not in header["architectures"]:
        raise Refused("Error Code 6: API Usage Error (The engine plan file is generated on an "
                      f"incompatible device, expecting compute {nodes.device()[1] / 10} got "
                      f"compute {header['architectures'][0] / 10}, please rebuild.)")
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
        # Before TensorRT 10 each context of an engine of many shapes has a profile of its own.
        self._apart = self._trt._version[0] < 10 and any(
            -1 in shape for _, shape in program.inputs.values())
        self._contexts: list[weakref.ref[Any]] = []

    num_io_tensors = property(lambda self: len(self._names))
    num_layers = property(lambda self: self._header["layers"])
    name = property(lambda self: "Unnamed Network 0")

    @property
    def _size(self) -> int:
        return max(laid.size for laid in self._laid)

    device_memory_size = property(lambda self: self._size)
    device_memory_size_v2 = property(lambda self: self._size)

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

    def create_runtime_config(self) -> Any:
        return new(self._trt.IRuntimeConfig)

    def create_execution_context(self, strategy: Any = None) -> Any:
        if self._trt._rtx and isinstance(strategy, self._trt.IRuntimeConfig):
            if strategy._cache is not None:
                strategy._cache._content = f"kernels of {self._header['layers']} layers".encode()
            strategy = strategy._strategy
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
            made = new(self._trt.IExecutionContext, self, own)
            self._contexts.append(weakref.ref(made))
            return made
        except (Refused, nodes.DriverError) as error:
            self._fail(told(error))
            return None

    def _taken(self, profile: int, by: Any) -> bool:
        """Whether a context has that profile which another cannot have then."""
        others = [one for one in (context() for context in self._contexts)
                  if one is not None and one is not by]
        return self._apart and any(one._profile == profile for one in others)

    def _fail(self, text: str) -> bool:
        self._logger.log(self._trt.ILogger.Severity.ERROR, text)
        return False


class IRuntimeConfig:
    """How TensorRT-RTX makes a context."""

    def _create(self) -> None:
        self._strategy = self._trt.ExecutionContextAllocationStrategy.STATIC
        self._cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> Any:
        return new(self._trt.IRuntimeCache)

    def set_runtime_cache(self, cache: Any) -> bool:
        self._cache = cache
        return True


class IRuntimeCache:
    """What TensorRT-RTX compiled."""

    def _create(self) -> None:
        self._content = b""

    def serialize(self) -> Any:
        return self._trt.IHostMemory(self._content)

    def deserialize(self, blob: Any) -> bool:
        self._content = bytes(blob)
        return True


TEMPLATES = {"Runtime": Runtime, "ICudaEngine": ICudaEngine, "IRuntimeConfig": IRuntimeConfig,
             "IRuntimeCache": IRuntimeCache}
