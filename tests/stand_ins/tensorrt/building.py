"""The builder, its configuration, and what users derive from. A plan is how it was built, and the
graph."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from typing import Any

import onnx

from . import nodes
from .objects import Object, Refused, checked, injected
from .parsing import ILayer, INetworkDefinition, ITensor, OnnxParser, ParserError

__all__ = ["Builder", "IBuilderConfig", "IHostMemory", "ILayer", "ILogger", "INetworkDefinition",
           "IOptimizationProfile", "IProgressMonitor", "ITensor", "ITimingCache", "OnnxParser",
           "ParserError", "read_plan"]

PLAN, CACHE = b"BIDIFF STAND-IN PLAN\n", b"BIDIFF STAND-IN CACHE\n"


class ILogger(Object):
    """Where messages go."""

    def __init__(self) -> None:
        self._made = True


class IProgressMonitor(Object):
    """Derived from by users."""

    def __init__(self) -> None:
        self._made = True


class IHostMemory(bytearray):
    """A buffer, which has no length."""

    __len__ = None  # type: ignore[assignment]
    nbytes = property(lambda self: memoryview(self).nbytes)


class IOptimizationProfile(Object):
    """Ranges of the inputs' shapes."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int],
                  max: Sequence[int]) -> None:
        self._shapes[input] = [tuple(map(operator.index, shape)) for shape in (min, opt, max)]
        if any(not 0 <= a <= b <= c for a, b, c in zip(*self._shapes[input], strict=True)):
            raise ValueError(f"Shape provided for min/opt/max of {input} is inconsistent")


class ITimingCache(Object):
    """Whether a build has timed its layers, on one version and GPU."""

    def __init__(self, machine: str, full: bool) -> None:
        self._machine, self._full = machine, full

    def serialize(self) -> Any:
        return self._trt.IHostMemory(CACHE + self._machine.encode())


class IBuilderConfig(Object):
    """How to build: what is set has to be of the right kind, and goes into the plan."""

    def __init__(self, logger: Any) -> None:
        self._logger, self._set, self._pools = logger, {"TF32"}, {}
        self._profiles: list[Any] = []
        self._capabilities: list[int] = []  # of TensorRT-RTX
        self._cache: Any = None
        self._monitor: Any = None
        self._sources: int | None = None
        self._level = 3

    def set_flag(self, flag: Any) -> None:
        self._set.add(self._of("BuilderFlag", flag))

    def clear_flag(self, flag: Any) -> None:
        self._set.discard(self._of("BuilderFlag", flag))

    def get_flag(self, flag: Any) -> bool:
        return self._of("BuilderFlag", flag) in self._set

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[self._of("MemoryPoolType", pool)] = operator.index(pool_size)

    num_compute_capabilities = property(lambda self: len(self._capabilities), lambda self, count:
                                        self._capabilities.extend([0] * count))

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        self._capabilities[index] = int(
            self._of("ComputeCapability", compute_capability).removeprefix("SM"))
        return True

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        content = bytes(serialized_timing_cache)
        if content and not content.startswith(CACHE):
            return self._log("the timing cache cannot be read") or None
        return self._trt.ITimingCache(content[len(CACHE):].decode() or self._machine, bool(content))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._machine != self._machine and not ignore_mismatch:
            return self._log("the timing cache is of another TensorRT or GPU", "WARNING")
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    @property
    def _machine(self) -> str:
        return f"{self._trt.__version__} {nodes.device()}"

    progress_monitor = property(lambda self: self._monitor, lambda self, monitor: setattr(
        self, "_monitor", checked(monitor, self._trt.IProgressMonitor)))
    builder_optimization_level = property(
        lambda self: self._level, lambda self, level: setattr(self, "_level", level))

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = operator.index(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        members = self._trt.TacticSource.__members__.values()
        return sum(1 << int(m) for m in members) if self._sources is None else self._sources


class Builder(Object):
    """Makes plans."""

    def __init__(self, logger: Any) -> None:
        self._logger = checked(logger, self._trt.ILogger)
        nodes.ensure_context()

    logger = property(lambda self: self._logger)

    def create_network(self, flags: int = 0) -> Any:
        return self._trt.INetworkDefinition(operator.index(flags))

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        try:
            return self._trt.IHostMemory(self._build(network, config))
        except Refused as error:
            return self._log(str(error)) or None

    def _build(self, network: Any, config: Any) -> bytes:
        program, limit = network._program, config._pools.get("WORKSPACE")
        if injected("build"):
            raise Refused("Error Code 10: Could not find any implementation for node.")
        _check_types(network, config)
        profiles = _profiles(program, config)
        if (monitor := config._monitor) is not None:
            monitor.phase_start("Building Engine", None, 1)
            if not monitor.step_complete("Building Engine", 0):
                raise Refused("the build was cancelled by the progress monitor")
            monitor.phase_finish("Building Engine")
        if (limit or 1 << 40) < 1 << 20:
            raise Refused("Error Code 10: insufficient workspace for any tactic")
        gpu = nodes.device()
        header = {"tensorrt": self._trt.__version__, "gpu": gpu.name,
                  "architectures": config._capabilities or [gpu.architecture],
                  "flags": sorted(config._set), "strongly_typed": network._strongly_typed,
                  "precisions": network._precisions, "profiles": profiles, "workspace": limit,
                  "dynamic": bool(config._profiles), "level": config._level,
                  "timed": config._cache is None or not config._cache._full}
        if config._cache is not None:
            config._cache._full = True
        return (PLAN + json.dumps(header).encode() + b"\n"
                + program.model.SerializeToString())


def read_plan(plan: Any) -> tuple[dict[str, Any], onnx.ModelProto]:
    """How a plan was built, and its graph. Raises Refused for what is no plan."""
    magic, _, rest = bytes(memoryview(plan)).partition(b"\n")
    if magic + b"\n" != PLAN:
        raise Refused("Error Code 1: Serialization (Serialization assertion magicTagRead == "
                      "kMAGIC_TAG failed. Magic tag does not match)")
    header, _, model = rest.partition(b"\n")
    return json.loads(header), onnx.load_model_from_string(model)


def _check_types(network: Any, config: Any) -> None:
    """Before version 10 flags allow types; in a strongly typed network there are no such flags."""
    if network._strongly_typed:
        if wrong := config._set & {"FP16", "INT8"} or network._precisions:
            raise Refused(f"API Usage Error: {wrong} cannot be set in a strongly typed network")
        return
    types = set(network._program.types.values())
    for kind, flag in ((onnx.TensorProto.FLOAT16, "FP16"), (onnx.TensorProto.INT8, "INT8")):
        if kind in types and flag not in config._set:
            raise Refused(f"Error Code 4: Internal Error ({flag.lower()} precision has been set for"
                          " a layer, but is not configured in the builder)")


def _profiles(program: Any, config: Any) -> list[dict[str, list[tuple[int, ...]]]]:
    """Shapes of all inputs, least, best and largest, in each profile."""
    made = []
    for profile in config._profiles or [None]:
        given = {} if profile is None else profile._shapes
        found = {name: given.get(name, [shape] * 3) for name, shape in program.inputs.items()}
        for name, shapes in found.items():
            declared = program.inputs[name]
            if any(-1 in one or len(one) != len(declared) or any(
                    size not in (-1, have) for size, have in zip(declared, one)) for one in shapes):
                raise Refused(f"Error Code 4: input {name} of {declared} has the profile {shapes}")
        made.append(found)
    return made
