"""TensorRT as tests of its stand-in use it: networks, contexts with memory, streams, and graphs of
a few nodes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bidiff_deploy.engines.tensorrt.plugin.library import PluginLibrary
from bidiff_deploy.graphs.float16 import MAPS
from bidiff_deploy.operators import names as ops
from stand_ins import tensorrt as tensorrt_stand_in
from stand_ins.tensorrt import nodes

__all__ = ["SHAPES", "Bound", "Stream", "Trt", "image", "info", "node", "small", "wrap"]

FLOAT = onnx.TensorProto.FLOAT
WORDS = {ops.BINARY_CONV: [1], ops.NORM_BINARY_CONV: [3], ops.BINARY_FUSION: [2, 6],
         ops.BINARY_DOWN: [1, 5], ops.BINARY_UP: [1, 5]}


class Trt:
    """TensorRT of a version in this process, and the ways to use it that tests need."""

    def __init__(self, trt: Any, library: PluginLibrary) -> None:
        self.trt, self.library, self.told = trt, library, []
        told = self.told

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                told.append(message)

        self.logger = Logger()
        self.builder = trt.Builder(self.logger)

    def network(self, model: Any, flags: tuple[str, ...] | None = None) -> tuple[Any, Any]:
        """A network of the graph, or what the parser says of it."""
        kinds = self.trt.NetworkDefinitionCreationFlag
        if flags is None:
            flags = ("EXPLICIT_BATCH",) if self.trt._version[0] < 10 else ("STRONGLY_TYPED",)
        network = self.builder.create_network(sum(1 << int(getattr(kinds, f)) for f in flags))
        parser = self.trt.OnnxParser(network, self.logger)
        if parser.parse(model.SerializeToString()):
            return network, None
        return None, parser.get_error(0).desc()

    def plan(self, model: Any, shapes: dict[str, list[tuple[int, ...]]] | None = None,
             change: Any = None, **network: Any) -> Any:
        config = self.builder.create_builder_config()
        if shapes:
            profile = self.builder.create_optimization_profile()
            for name, (least, best, most) in shapes.items():
                profile.set_shape(name, least, best, most)
            config.add_optimization_profile(profile)
        if change:
            change(config)
        made, error = self.network(model, **network)
        assert made is not None, error
        return self.builder.build_serialized_network(made, config)

    def engine(self, plan: Any) -> Any:
        return self.trt.Runtime(self.logger).deserialize_cuda_engine(plan)


class Stream:
    """A stream of the emulated GPU, and graphs that are captured on it."""

    def __init__(self) -> None:
        self.handle = ctypes.c_void_p()
        nodes._call("cuStreamCreate", ctypes.byref(self.handle), 1)

    def capture(self, work: Any) -> Any:
        graph, made = ctypes.c_void_p(), ctypes.c_void_p()
        nodes._call("cuStreamBeginCapture_v2", self.handle, 1)
        try:
            work()
        finally:
            nodes._call("cuStreamEndCapture", self.handle, ctypes.byref(graph))
        nodes._call("cuGraphInstantiateWithFlags", ctypes.byref(made), graph, ctypes.c_uint64(0))
        return lambda: nodes._call("cuGraphLaunch", made, self.handle)


class Bound:
    """A context with memory for every tensor."""

    def __init__(self, context: Any, **inputs: np.ndarray) -> None:
        self.context, self.memories, self.stream = context, {}, Stream()
        self.inputs = {}
        for name, value in inputs.items():
            assert context.set_input_shape(name, value.shape)
        for name in context._engine._names:
            shape = tuple(context.get_tensor_shape(name))
            dtype = context._engine._program.dtype(name)
            memory = nodes.DeviceMemory(int(np.prod(shape)) * dtype.itemsize)
            self.memories[name] = memory, nodes.view(memory.address, shape, dtype)
            assert context.set_tensor_address(name, memory.address)
        self.put(**inputs)

    def put(self, **inputs: np.ndarray) -> None:
        for name, value in inputs.items():
            self.memories[name][1][...] = value

    def enqueue(self) -> bool:
        return self.context.execute_async_v3(self.stream.handle.value)

    def run(self) -> np.ndarray:
        assert self.enqueue()
        return self.result()

    def result(self) -> np.ndarray:
        return self.memories["y"][1].copy()


@pytest.fixture
def open_trt(tmp_path_factory) -> Iterator[Any]:
    """A function: the stand-in of a version; for as long as the test runs."""
    with ExitStack() as stack:
        def made(version: str = "10.3.0", **changed: str) -> Trt:
            trt = stack.enter_context(tensorrt_stand_in.in_process(
                tmp_path_factory.getbasetemp() / "kernels", version, **changed))
            return Trt(trt, PluginLibrary(tensorrt_stand_in.plugin()))

        yield made


@pytest.fixture
def trt(open_trt) -> Trt:
    return open_trt()


def node(op: str, given: list[np.ndarray | None], attributes: dict[str, int],
         library: PluginLibrary | None, half: bool = False, version: str = "1") -> Any:
    """One node of the plugin, its words prepared where a library is given."""
    types = onnx.TensorProto
    inputs, constants, names, mask, extra = [], [], [], 0, dict(attributes)
    for index, value in enumerate(given):
        if value is None:
            continue
        mask |= 1 << index
        names.append(f"i{index}")
        if library is not None and index in WORDS.get(op, []):
            extra |= {"kernel": value.shape[1], "layout": library.layout}
            channels = given[0].shape[1] // (2 if op == ops.BINARY_DOWN else 1)
            value = library.prepare_words(value, channels)
        if index in MAPS[op]:
            kind = types.FLOAT16 if half else types.FLOAT
            inputs.append(helper.make_tensor_value_info(names[-1], kind, value.shape))
        else:
            constants.append(numpy_helper.from_array(value, names[-1]))
    made = helper.make_node(op, names, ["y"], domain=ops.DOMAIN, plugin_version=version,
                            plugin_namespace="bidiff", **extra)
    made.attribute.append(helper.make_attribute("inputs", mask))
    y = helper.make_tensor_value_info("y", types.FLOAT16 if half else types.FLOAT, None)
    return wrap([made], inputs, [y], constants)


def wrap(graph_nodes: list[Any], inputs: list[Any], outputs: list[Any],
         constants: Sequence[Any] = (), opset: int = 17, functions: Sequence[Any] = ()) -> Any:
    graph = helper.make_graph(graph_nodes, "test", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=8, functions=functions, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 1)])


def info(name: str, shape: Any, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def small(batch: Any = "N", height: Any = "H", width: Any = "W") -> Any:
    """conv -> BinaryConv -> two branches of standard operators -> sum."""
    rng = np.random.default_rng(3)
    constants = [numpy_helper.from_array(value, name) for name, value in {
        "kernel": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "words": rng.integers(-2**31, 2**31, (8, 3, 3, 1)).astype(np.int32),
        "alpha": rng.standard_normal(8).astype(np.float32),
        "shift": rng.standard_normal((8, 1, 1)).astype(np.float32)}.items()]
    attributes = {"domain": ops.DOMAIN, "plugin_namespace": "bidiff", "plugin_version": "1"}
    return wrap([
        helper.make_node("Conv", ["x", "kernel"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("BinaryConv", ["a", "words", "alpha"], ["b"], **attributes),
        helper.make_node("Concat", ["r", "r"], ["c"], axis=1),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("BinaryConv", ["d", "words", "alpha"], ["e"], **attributes),
        helper.make_node("Add", ["e", "shift"], ["y"])],
        [info("x", [batch, 3, height, width])], [info("y", None)], constants)


SHAPES = {"x": [(1, 3, 4, 4), (1, 3, 8, 8), (2, 3, 12, 16)]}


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
