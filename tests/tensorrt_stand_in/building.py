"""Loggers, the builder and its configuration. A plan holds the graph and how it was built."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from typing import Any, Sequence

import onnx

from . import nodes
from .filtered import new
from .program import Refused

MAGIC = b"BIDIFF STAND-IN PLAN\n"
_CACHE_MAGIC = b"BIDIFF STAND-IN CACHE\n"


class StandInError(Exception):
    """What bindings throw as a C++ exception."""


def injected(what: str) -> bool:
    """Whether BIDIFF_STAND_IN_FAIL says that this fails: build, deserialize, context, enqueue."""
    return what in os.environ.get("BIDIFF_STAND_IN_FAIL", "").split(",")


class ILogger:
    """Where messages go."""

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError("ILogger.log is pure virtual")


class Logger:
    """Messages to stderr."""

    def __init__(self, min_severity: Any = None) -> None:
        self._made = True
        self._least = min_severity or self._trt.ILogger.Severity.WARNING

    @property
    def min_severity(self) -> Any:
        return self._least

    @min_severity.setter
    def min_severity(self, value: Any) -> None:
        self._least = value

    def log(self, severity: Any, msg: str) -> None:
        if int(severity) <= int(self._least):
            import sys
            print(f"[TRT] [{severity.name[0]}] {msg}", file=sys.stderr)


class IProgressMonitor:
    """Derived from by users."""

    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError("IProgressMonitor.phase_start is pure virtual")

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError("IProgressMonitor.phase_finish is pure virtual")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError("IProgressMonitor.step_complete is pure virtual")


def checked(value: Any, kind: type) -> Any:
    """``value``, whose base must have been initialised."""
    if not isinstance(value, kind) or not getattr(value, "_made", False):
        raise TypeError(f"{kind.__name__}.__init__() must be called when overriding __init__, and "
                        f"the object be one: {value!r}")
    return value


class IHostMemory(bytearray):
    """A buffer. Nothing but its bytes is to be had of it."""

    def __init__(self, content: bytes) -> None:
        bytearray.__init__(self, content)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name not in ("nbytes", "dtype", "_trt"):
            raise AttributeError(f"'IHostMemory' object has no attribute {name!r}")
        return bytearray.__getattribute__(self, name)

    __len__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return True

    @property
    def nbytes(self) -> int:
        return memoryview(self).nbytes


class IOptimizationProfile:
    """Ranges of the inputs' shapes."""

    def _create(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int],
                  max: Sequence[int]) -> None:
        shapes = [tuple(operator.index(size) for size in shape) for shape in (min, opt, max)]
        if len({len(shape) for shape in shapes}) != 1 or any(
                not 0 <= a <= b <= c for a, b, c in zip(*shapes)):
            raise ValueError(f"Shape provided for min/opt/max of {input} is inconsistent with one "
                             "another")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> list[tuple[int, ...]]:
        return list(self._shapes.get(input, []))

    def __bool__(self) -> bool:
        return True


class ITimingCache:
    """Timings of layers, by what they are."""

    def _create(self, header: str, keys: set[str]) -> None:
        self._header, self._keys = header, keys

    def serialize(self) -> Any:
        return self._trt.IHostMemory(_CACHE_MAGIC + json.dumps(
            {"header": self._header, "keys": sorted(self._keys)}).encode())

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        if input_cache._header != self._header and not ignore_mismatch:
            return False
        self._keys |= input_cache._keys
        return True

    def reset(self) -> bool:
        self._keys.clear()
        return True


class IBuilderConfig:
    """How to build."""

    def _create(self, logger: Any) -> None:
        self._logger = logger
        self._set = {"TF32"}
        self._pools: dict[str, int] = {}
        self._profiles: list[Any] = []
        self._cache: Any = None
        self._monitor: Any = None
        self._level, self._auxiliary, self._verbosity = 3, 0, None
        self._sources: int | None = None
        self._preview: dict[str, bool] = {}
        self._compatibility: Any = None

    @property
    def flags(self) -> int:
        members = self._trt.BuilderFlag.__members__
        return sum(1 << int(members[name]) for name in self._set if name in members)

    @flags.setter
    def flags(self, value: int) -> None:
        self._set = {name for name, member in self._trt.BuilderFlag.__members__.items()
                     if value >> int(member) & 1}

    def set_flag(self, flag: Any) -> None:
        self._set.add(self._of("BuilderFlag", flag))

    def clear_flag(self, flag: Any) -> None:
        self._set.discard(self._of("BuilderFlag", flag))

    def get_flag(self, flag: Any) -> bool:
        return self._of("BuilderFlag", flag) in self._set

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[self._of("MemoryPoolType", pool)] = operator.index(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(self._of("MemoryPoolType", pool), 1 << 30)

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    num_optimization_profiles = property(lambda self: len(self._profiles))

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        content = bytes(serialized_timing_cache)
        if not content:
            return new(self._trt.ITimingCache, self._header(), set())
        try:
            if not content.startswith(_CACHE_MAGIC):
                raise ValueError
            read = json.loads(content[len(_CACHE_MAGIC):])
            return new(self._trt.ITimingCache, read["header"], set(read["keys"]))
        except (ValueError, KeyError):
            self._logger.log(self._trt.ILogger.Severity.ERROR, "the timing cache can not be read")
            return None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._header != self._header() and not ignore_mismatch:
            self._logger.log(self._trt.ILogger.Severity.WARNING,
                             "the timing cache is of another TensorRT or GPU")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def _header(self) -> str:
        return f"{self._trt.__version__} {nodes.device()}"

    @property
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: Any) -> None:
        self._monitor = monitor if monitor is None else checked(monitor,
                                                                self._trt.IProgressMonitor)

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, level: int) -> None:
        self._level = operator.index(level)

    @property
    def max_aux_streams(self) -> int:
        return self._auxiliary

    @max_aux_streams.setter
    def max_aux_streams(self, count: int) -> None:
        self._auxiliary = operator.index(count)

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._compatibility or self._trt.HardwareCompatibilityLevel.NONE

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, level: Any) -> None:
        self._compatibility = level

    @property
    def profiling_verbosity(self) -> Any:
        return self._verbosity or self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        self._of("ProfilingVerbosity", value)
        self._verbosity = value

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = operator.index(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        members = self._trt.TacticSource.__members__.values()
        return sum(1 << int(m) for m in members) if self._sources is None else self._sources

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self._preview[self._of("PreviewFeature", feature)] = bool(enable)

    def get_preview_feature(self, feature: Any) -> bool:
        return self._preview.get(self._of("PreviewFeature", feature), False)

    def _of(self, kind: str, value: Any) -> str:
        if type(value) is not getattr(self._trt, kind):
            raise TypeError(f"incompatible function arguments: {value!r} is no {kind}")
        return value.name


class Builder:
    """Makes plans."""

    def __init__(self, logger: Any) -> None:
        self._logger = checked(logger, self._trt.ILogger)
        nodes.ensure_context()

    logger = property(lambda self: self._logger)
    platform_has_fast_fp16 = property(lambda self: True)
    platform_has_fast_int8 = property(lambda self: True)
    platform_has_tf32 = property(lambda self: nodes.device()[1] >= 80)

    def create_network(self, flags: int = 0) -> Any:
        return new(self._trt.INetworkDefinition, self, operator.index(flags))

    def create_builder_config(self) -> Any:
        return new(self._trt.IBuilderConfig, self._logger)

    def create_optimization_profile(self) -> Any:
        return new(self._trt.IOptimizationProfile)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        try:
            return self._trt.IHostMemory(self._build(network, config))
        except Refused as error:
            self._logger.log(self._trt.ILogger.Severity.ERROR, str(error))
            return None

    def _build(self, network: Any, config: Any) -> bytes:
        program = network._program
        if program is None:
            raise Refused("Network must have at least one output")
        if injected("build"):
            raise Refused("Error Code 10: Could not find any implementation for node.")
        _check_types(network, config)
        profiles = _profiles(program, config)
        monitor = config._monitor
        layers = [_signature(node, program, profiles) for node in network._model.graph.node]
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 2)
            monitor.phase_start("Profiling layers", "Building Engine", len(layers))
        known, timed = set() if config._cache is None else config._cache._keys, 0
        for index, key in enumerate(layers):
            timed += key not in known
            known.add(key)
            if monitor is not None and not monitor.step_complete("Profiling layers", index):
                raise Refused("the build was cancelled by the progress monitor")
        if monitor is not None:
            monitor.phase_finish("Profiling layers")
            if not monitor.step_complete("Building Engine", 0):
                raise Refused("the build was cancelled by the progress monitor")
        self._logger.log(self._trt.ILogger.Severity.INFO,
                         f"{timed} of {len(layers)} layers were timed")
        for profile in profiles:
            laid = program.lay({name: shapes[2] for name, shapes in profile.items()})
            # A part's workspace counts as a tactic's.
            if max(program.workspaces(laid.given), default=0) > config._pools.get("WORKSPACE",
                                                                                  1 << 40):
                raise Refused("Error Code 10: insufficient workspace for any tactic")
        name, architecture = nodes.device()
        header = {"tensorrt": self._trt.__version__, "gpu": name, "architecture": architecture,
                  "flags": sorted(config._set), "strongly_typed": network._strongly_typed,
                  "precisions": network._precisions, "profiles": profiles,
                  "dynamic": bool(config._profiles), "level": config._level,
                  "workspace": config._pools.get("WORKSPACE"), "timed": timed,
                  "tactic_sources": config.get_tactic_sources(), "layers": len(layers)}
        if monitor is not None:
            monitor.step_complete("Building Engine", 1)
            monitor.phase_finish("Building Engine")
        graph = network._model.SerializeToString()
        text = json.dumps(header).encode()
        body = len(text).to_bytes(8, "little") + text + graph
        return MAGIC + hashlib.sha256(body).digest() + body


def read_plan(plan: Any) -> tuple[dict[str, Any], onnx.ModelProto]:
    """How a plan was built (tensorrt, gpu, architecture, flags, strongly_typed, precisions,
    profiles, level, workspace, timed ...), and its graph. Raises ValueError for damaged ones."""
    content = bytes(memoryview(plan))
    body = content[len(MAGIC) + 32:]
    if (not content.startswith(MAGIC)
            or hashlib.sha256(body).digest() != content[len(MAGIC):len(MAGIC) + 32]):
        raise ValueError("the plan is damaged")
    size = int.from_bytes(body[:8], "little")
    model = onnx.ModelProto()
    model.ParseFromString(body[8 + size:])
    return json.loads(body[8:8 + size]), model


def _check_types(network: Any, config: Any) -> None:
    flags = config._set
    if network._strongly_typed:
        if wrong := flags & {"FP16", "BF16", "INT8", "FP8"}:
            raise Refused(f"API Usage Error: {sorted(wrong)[0]} flag can not be set for a strongly "
                          "typed network")
        if network._precisions:
            raise Refused("API Usage Error: precision can not be set in a strongly typed network")
        return
    types = set(network._program.types.values())
    for kind, flag in ((onnx.TensorProto.FLOAT16, "FP16"), (onnx.TensorProto.INT8, "INT8")):
        if kind in types and flag not in flags:
            raise Refused(f"Error Code 4: Internal Error ({flag.lower()} precision has been set for "
                          f"a layer or layer output, but {flag.lower()} is not configured in the "
                          "builder)")


def _profiles(program: Any, config: Any) -> list[dict[str, list[tuple[int, ...]]]]:
    dynamic = {name for name, (_, shape) in program.inputs.items() if -1 in shape}
    if dynamic and not config._profiles:
        raise Refused("Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no "
                      "optimization profile has been defined.)")
    made = []
    for profile in config._profiles or [None]:
        found = {}
        for name, (_, shape) in program.inputs.items():
            given = None if profile is None else profile._shapes.get(name)
            if name in dynamic and given is None:
                raise Refused(f"Error Code 4: input tensor {name} has dynamic dimensions but no "
                              "shapes in the optimization profile")
            given = given or [shape] * 3
            for one in given:
                if len(one) != len(shape) or any(size not in (-1, have)
                                                 for size, have in zip(shape, one)):
                    raise Refused(f"Error Code 4: for input tensor {name} the profile's {one} does "
                                  f"not go with its dimensions {shape}")
            found[name] = given
        made.append(found)
    return made


def _signature(node: onnx.NodeProto, program: Any, profiles: Any) -> str:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")
    for names in (copy.input, copy.output):
        del names[:]
    parts = [copy.SerializeToString(), repr(sorted(profiles[0].items())).encode(),
             repr([program.types.get(name) for name in node.input]).encode()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


TEMPLATES = {"ILogger": ILogger, "Logger": Logger, "IProgressMonitor": IProgressMonitor,
             "IHostMemory": IHostMemory, "IOptimizationProfile": IOptimizationProfile,
             "ITimingCache": ITimingCache, "IBuilderConfig": IBuilderConfig, "Builder": Builder}
