"""The builder's configuration: what is set has to be of the right kind, and goes into the plan."""

from __future__ import annotations

import json
import operator
from typing import Any

from . import nodes
from .filtered import new
from .objects import CACHE_MAGIC, checked


class IBuilderConfig:
    """How to build."""

    def _create(self, logger: Any) -> None:
        self._logger = logger
        self._set = {"TF32"}
        self._pools: dict[str, int] = {}
        self._profiles: list[Any] = []
        self._capabilities: list[int] = []  # of TensorRT-RTX
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
        if not content:
            return new(self._trt.ITimingCache, self._header(), set())
        try:
            if not content.startswith(CACHE_MAGIC):
                raise ValueError
            read = json.loads(content[len(CACHE_MAGIC):])
            return new(self._trt.ITimingCache, read["header"], set(read["keys"]))
        except (ValueError, KeyError):
            self._logger.log(self._trt.ILogger.Severity.ERROR, "the timing cache cannot be read")
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

    def _of(self, kind: str, value: Any) -> str:
        if type(value) is not getattr(self._trt, kind):
            raise TypeError(f"incompatible function arguments: {value!r} is no {kind}")
        return value.name


TEMPLATES = {"IBuilderConfig": IBuilderConfig}
