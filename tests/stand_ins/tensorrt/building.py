"""The builder and its configuration. A plan is how it was built, and the graph. What is built of
which types and shapes is shown by NVIDIA's own builder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import onnx

from . import nodes
from .objects import Object

CACHE = b"BIDIFF STAND-IN CACHE\n"


class IOptimizationProfile(Object):
    """Ranges of the inputs' shapes."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int],
                  max: Sequence[int]) -> None:
        self._shapes[input] = [tuple(shape) for shape in (min, opt, max)]


class ITimingCache(Object):
    """Whether a build has timed its layers, on one version and GPU."""

    def __init__(self, machine: str, full: bool) -> None:
        self._machine, self._full = machine, full

    def serialize(self) -> bytes:
        return CACHE + self._machine.encode()


class IBuilderConfig(Object):
    """How to build: what is set has to be of the right kind, and goes into the plan."""

    progress_monitor: Any = None
    builder_optimization_level = 3
    num_compute_capabilities = 0

    def __init__(self, logger: Any) -> None:
        self._logger, self._set, self._pools = logger, {"TF32"}, {}
        self._profiles: list[Any] = []
        self._cache: Any = None

    def set_flag(self, flag: Any) -> None:
        self._set.add(self._of("BuilderFlag", flag))

    def clear_flag(self, flag: Any) -> None:
        self._set.discard(self._of("BuilderFlag", flag))

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[self._of("MemoryPoolType", pool)] = pool_size

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        return bool(self._of("ComputeCapability", compute_capability))

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache and not serialized_timing_cache.startswith(CACHE):
            return self._log("the timing cache cannot be read") or None
        machine = serialized_timing_cache[len(CACHE):].decode()
        return self._trt.ITimingCache(machine or self._machine, bool(machine))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._machine != self._machine and not ignore_mismatch:
            return self._log("the timing cache is of another TensorRT or GPU", "WARNING")
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    @property
    def _machine(self) -> str:
        return f"{self._trt.__version__} {nodes.call('cuCtxGetDevice')}"

    def get_tactic_sources(self) -> int:
        return 0


class Builder(Object):
    """Makes plans."""

    logger: Any = None

    def __init__(self, logger: Any) -> None:
        self.logger = self._logger = logger
        nodes.ensure_context()

    def create_network(self, flags: int = 0) -> Any:
        return self._trt.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig(self.logger)

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        program = network._program
        if (monitor := getattr(config, "progress_monitor", None)) is not None:
            monitor.phase_start("Building Engine", None, 1)
            assert monitor.step_complete("Building Engine", 0)
            monitor.phase_finish("Building Engine")
        profiles = [{name: profile._shapes.get(name, [shape] * 3)
                     for name, shape in program.inputs.items()}
                    for profile in config._profiles or [self.create_optimization_profile()]]
        header = {"flags": sorted(config._set), "strongly_typed": network._strongly_typed,
                  "precisions": network._precisions, "profiles": profiles,
                  "workspace": config._pools.get("WORKSPACE"),
                  "dynamic": bool(config._profiles),
                  "level": getattr(config, "builder_optimization_level", None),
                  "timed": config._cache is None or not config._cache._full}
        if config._cache is not None:
            config._cache._full = True
        return json.dumps(header).encode() + b"\n" + program.model.SerializeToString()


def read_plan(plan: bytes) -> tuple[dict[str, Any], onnx.ModelProto]:
    """How a plan was built, and its graph."""
    header, _, model = plan.partition(b"\n")
    return json.loads(header), onnx.load_model_from_string(model)
