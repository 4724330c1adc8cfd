"""The builder. A plan holds the graph and how it was built."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from typing import Any

import onnx

from . import nodes
from .filtered import new
from .objects import checked
from .program import Refused

MAGIC = b"BIDIFF STAND-IN PLAN\n"


def injected(what: str) -> bool:
    """Whether BIDIFF_STAND_IN_FAIL says that this fails: build, deserialize, context, enqueue."""
    return what in os.environ.get("BIDIFF_STAND_IN_FAIL", "").split(",")


class Builder:
    """Makes plans."""

    def __init__(self, logger: Any) -> None:
        self._logger = checked(logger, self._trt.ILogger)
        nodes.ensure_context()

    logger = property(lambda self: self._logger)

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
        header = {"tensorrt": self._trt.__version__, "gpu": name,
                  "architectures": config._capabilities or [architecture],
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
            raise Refused(f"API Usage Error: {sorted(wrong)[0]} flag cannot be set for a strongly "
                          "typed network")
        if network._precisions:
            raise Refused("API Usage Error: precision cannot be set in a strongly typed network")
        return
    types = set(network._program.types.values())
    for kind, flag in ((onnx.TensorProto.FLOAT16, "FP16"), (onnx.TensorProto.INT8, "INT8")):
        if kind in types and flag not in flags:
            raise Refused(f"Error Code 4: Internal Error ({flag.lower()} precision has been set "
                          f"for a layer or layer output, but {flag.lower()} is not configured in "
                          "the builder)")


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


TEMPLATES = {"Builder": Builder}
