"""The stand-in for TensorRT that other tests rely on: its nodes compute what the op library does,
captured graphs compute it again, and it refuses what TensorRT refuses."""

from __future__ import annotations

import ctypes
from typing import Any, Iterator

import emulated_cuda
import numpy as np
import pytest
import tensorrt_names
import tensorrt_stand_in
from conftest import snr

from bidiff_deploy import ops
from bidiff_deploy.engines.tensorrt.plugin import PluginLibrary

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tensorrt_stand_in import module, nodes  # noqa: E402
from test_cuda_engine import MAPS, cases, on_the_cpus_kernels  # noqa: E402

helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
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
    from contextlib import ExitStack

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


def wrap(graph_nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any] = [],
         opset: int = 17, functions: list[Any] = []) -> Any:
    graph = helper.make_graph(graph_nodes, "test", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=8, functions=functions, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 1)])


def info(name: str, shape: Any, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


# -- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("prepared", [False, True], ids=["contract", "prepared"])
@pytest.mark.parametrize("name", cases())
def test_a_node_is_the_op_librarys(trt: Trt, name: str, prepared: bool, half: bool) -> None:
    """Equal to the bit but for the norm, whose statistics are summed in another order."""
    op, given, attributes = cases()[name]
    maps = {f"i{index}": value.astype(np.float16) if half else value
            for index, value in enumerate(given) if value is not None and index in MAPS[op]}
    rounded = [value if (found := maps.get(f"i{index}")) is None else found.astype(np.float32)
               for index, value in enumerate(given)]
    expected = on_the_cpus_kernels(op, rounded, attributes)
    made = node(op, given, attributes, trt.library if prepared else None, half)
    engine = trt.engine(trt.plan(made))
    found = Bound(engine.create_execution_context(), **maps).run()
    assert found.dtype == (np.float16 if half else np.float32)
    if "norm" in name:
        assert snr(expected, found) > (70 if half else 110)
    else:
        np.testing.assert_array_equal(found, expected.astype(found.dtype))


def small(batch: Any = "N", height: Any = "H", width: Any = "W") -> Any:
    """conv -> BinaryConv -> two branches of standard operators -> sum."""
    rng = np.random.default_rng(3)
    constants = [numpy_helper.from_array(value, name) for name, value in {
        "kernel": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "words": rng.integers(-2**31, 2**31, (8, 3, 3, 1)).astype(np.int32),
        "alpha": rng.standard_normal(8).astype(np.float32),
        "shift": rng.standard_normal((8, 1, 1)).astype(np.float32)}.items()]
    attributes = dict(domain=ops.DOMAIN, plugin_namespace="bidiff", plugin_version="1")
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


def expected_of_small(x: np.ndarray) -> np.ndarray:
    """The same by the op library, which has the operators in one session."""
    import onnxruntime

    from bidiff_deploy.engines import library
    from bidiff_deploy.engines.onnxruntime import session_options

    made = small()
    for one in made.graph.node:
        if one.domain:
            del one.attribute[:]
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.register_custom_ops_library(str(library.library_path()))
    session = onnxruntime.InferenceSession(made.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


@pytest.mark.parametrize("version", tensorrt_stand_in.VERSIONS)
def test_a_network_and_its_graph(open_trt: Any, version: str) -> None:
    trt = open_trt(version)
    engine = trt.engine(trt.plan(small(), SHAPES))
    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["x", "y"]
    assert tuple(engine.get_tensor_shape("y")) == (-1, 8, -1, -1)
    context = engine.create_execution_context()
    for shape in ((1, 3, 4, 6), (2, 3, 12, 16)):
        first, second = image(*shape), image(*shape, seed=1)
        bound = Bound(context, x=first)
        np.testing.assert_array_equal(bound.run(), expected_of_small(first))
        launch = bound.stream.capture(lambda: bound.enqueue())
        bound.put(x=second)
        before = bound.result()
        np.testing.assert_array_equal(before, expected_of_small(first))  # captured, not run
        launch()
        np.testing.assert_array_equal(bound.result(), expected_of_small(second))


def test_contexts_share_memory_that_the_user_gives(trt: Trt) -> None:
    engine = trt.engine(trt.plan(small(), SHAPES))
    strategy = trt.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    contexts = [engine.create_execution_context(strategy) for _ in range(2)]
    bounds = [Bound(context, x=image(*shape)) for context, shape in
              zip(contexts, ((1, 3, 4, 4), (1, 3, 8, 10)))]
    sizes = [context.update_device_memory_size_for_shapes() for context in contexts]
    assert 0 < sizes[0] < sizes[1] <= engine.device_memory_size_v2
    assert not bounds[0].enqueue() and "device memory" in trt.told[-1]
    memory = nodes.DeviceMemory(max(sizes))
    for context in contexts:
        context.set_device_memory(memory.address, memory.size)
    for bound, shape in zip(bounds, ((1, 3, 4, 4), (1, 3, 8, 10))):
        np.testing.assert_array_equal(bound.run(), expected_of_small(image(*shape)))
    contexts[1].set_device_memory(memory.address, sizes[1] - 1)
    assert not bounds[1].enqueue() and str(sizes[1]) in trt.told[-1]


# -- what TensorRT demands -----------------------------------------------------------------------


def test_what_an_enqueue_demands(trt: Trt, capfd: pytest.CaptureFixture[str]) -> None:
    engine = trt.engine(trt.plan(small(), SHAPES))
    context = engine.create_execution_context()
    x, stream = nodes.DeviceMemory(3 * 64 * 4), Stream()

    def refused(words: str) -> None:
        assert not context.execute_async_v3(stream.handle.value)
        assert words in trt.told[-1]

    refused("shape of x is not set")
    for shape in ((1, 3, 2, 4), (3, 3, 4, 4), (1, 4, 4, 4), (1, 3, 4)):
        assert not context.set_input_shape("x", shape) and "input shape" in trt.told[-1]
    assert not context.set_input_shape("z", (1,))
    assert context.set_input_shape("x", (1, 3, 8, 8))
    refused("No address for x")
    assert not context.set_tensor_address("x", x.address + 4) and "aligned" in trt.told[-1]
    assert not context.set_tensor_address("z", x.address)
    assert context.set_tensor_address("x", x.address)
    refused("No address for y")
    assert context.set_tensor_address("y", x.address)  # 3 channels, not 8
    refused("illegal memory access")
    y = nodes.DeviceMemory(8 * 64 * 4)
    assert context.set_tensor_address("y", y.address)
    stream.capture(lambda: refused("before it is captured"))
    assert context.execute_async_v3(stream.handle.value)
    stream.capture(lambda: context.execute_async_v3(stream.handle.value))
    assert "2048 bytes are not allocated" in capfd.readouterr().err


def test_graphs_that_no_parser_takes(open_trt: Any) -> None:
    trt = open_trt()
    y, x = info("y", None), info("x", [1, 3, 4, 4])
    identity = helper.make_node("Relu", ["x"], ["y"])

    def refused(made: Any, version: str = "10.3.0", **flags: Any) -> str:
        network, error = open_trt(version).network(made, **flags)
        assert network is None
        return error

    assert "explicit batch" in refused(wrap([identity], [x], [y]), "8.5.3", flags=())
    newer = wrap([identity], [x], [y], opset=18)
    assert "opset 18" in refused(newer, "8.5.3") and trt.network(newer)[0] is not None
    function = helper.make_function(ops.DOMAIN, "Same", ["a"], ["b"],
                                    [helper.make_node("Relu", ["a"], ["b"])],
                                    [helper.make_opsetid("", 17)])
    assert "local function Same" in refused(wrap([helper.make_node(
        "Same", ["x"], ["y"], domain=ops.DOMAIN)], [x], [y], functions=[function]))
    op, given, attributes = cases()["conv_bare"]
    missing = "Plugin not found, are the plugin name, version, and namespace correct?"
    assert missing in refused(node(op, given, attributes, None, version="2"))
    # Only later parsers look for a plugin in the node's domain.
    made = node(op, given, attributes, None)
    kept = [entry for entry in made.graph.node[0].attribute if entry.name != "plugin_namespace"]
    del made.graph.node[0].attribute[:]
    made.graph.node[0].attribute.extend(kept)
    assert missing in refused(made, "10.9.0")
    assert open_trt("10.16.1").network(made)[0] is not None
    assert missing in refused(wrap([helper.make_node("Unheard", ["x"], ["y"])], [x], [y]))
    assert missing in refused(wrap([helper.make_node("Hardmax", ["x"], ["y"])], [x], [y]), "8.5.3")
    assert trt.network(wrap([helper.make_node("Hardmax", ["x"], ["y"])], [x], [y]))[0] is not None
    # The plugin's own refusals.
    made = node(op, given, {"kernel": 2}, None)
    assert "Could not create plugin" in refused(made)
    mixed = wrap([helper.make_node("Add", ["x", "h"], ["y"])],
                 [x, info("h", [1, 3, 4, 4], onnx.TensorProto.FLOAT16)], [y])
    assert "invalid graph" in refused(mixed)
    made = trt.network(wrap([identity], [x], [y]))[0]
    assert not trt.trt.OnnxParser(made, trt.logger).parse(b"no graph")


def test_quantisation_that_no_parser_takes(open_trt: Any) -> None:
    def told(zero: np.ndarray | None, scale: float = 0.5, version: str = "10.3.0") -> str | None:
        constants = {"scale": np.float32(scale), **({} if zero is None else {"zero": zero})}
        return open_trt(version).network(wrap(
            [helper.make_node("QuantizeLinear", ["x", *constants], ["q"]),
             helper.make_node("DequantizeLinear", ["q", *constants], ["y"])],
            [info("x", [1, 3, 4, 4])], [info("y", None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()]))[1]

    for version in ("8.5.3", "10.3.0"):
        assert told(np.int8(0), version=version) is None
        assert "symmetric" in told(np.int8(1), version=version)
        assert "positive" in told(np.int8(0), -1.0, version=version)
        assert "same size" in told(np.zeros(3, np.int8), version=version)
    assert "3 inputs" in told(None, version="8.5.3")


def test_the_plugin_of_another_major_version_is_not_there(open_trt: Any) -> None:
    op, given, attributes = cases()["conv_bare"]
    made = node(op, given, attributes, None)
    plan = open_trt().plan(made)
    trt = open_trt(BIDIFF_STAND_IN_PLUGIN="11.4.0")
    assert "Plugin not found" in trt.network(made)[1]
    assert trt.engine(plan) is None and "Could not find plugin" in trt.told[-1]


def test_networks_that_are_not_built(open_trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(trt: Trt, words: str, made: Any, *arguments: Any, **flags: Any) -> None:
        assert trt.plan(made, *arguments, **flags) is None
        assert words in trt.told[-1], trt.told

    old, new = open_trt("8.5.3"), open_trt("10.3.0")
    half = wrap([helper.make_node("Relu", ["x"], ["y"])],
                [info("x", [1, 3], onnx.TensorProto.FLOAT16)],
                [info("y", None, onnx.TensorProto.FLOAT16)])
    refused(old, "fp16 is not configured", half)
    fp16 = old.trt.BuilderFlag.FP16
    assert old.plan(half, None, lambda config: config.set_flag(fp16)) is not None
    refused(new, "strongly typed", half, None,
            lambda config: config.set_flag(new.trt.BuilderFlag.FP16))
    refused(new, "no optimization profile", small())
    refused(new, "no shapes in the optimization profile", small(), {"z": SHAPES["x"]})
    refused(new, "does not go with its dimensions", small(), {"x": [(1, 4, 4, 4)] * 3})
    refused(new, "insufficient workspace", small(), SHAPES, lambda config:
            config.set_memory_pool_limit(new.trt.MemoryPoolType.WORKSPACE, 1))
    with pytest.raises(ValueError, match="inconsistent"):
        new.builder.create_optimization_profile().set_shape("x", (2, 3), (1, 3), (2, 3))
    with pytest.raises(TypeError, match="BuilderFlag"):
        new.builder.create_builder_config().set_flag(new.trt.MemoryPoolType.WORKSPACE)
    with pytest.raises(AttributeError, match="optimisation_level"):
        new.builder.create_builder_config().optimisation_level = 3
    monkeypatch.setenv("BIDIFF_STAND_IN_FAIL", "build,enqueue")
    refused(new, "implementation", small(), SHAPES)
    with pytest.raises(TypeError, match="ILogger"):
        new.trt.Builder(type("Logger", (new.trt.ILogger,), {"__init__": lambda self: None})())


def test_a_build_tells_its_progress_and_can_be_cancelled(trt: Trt) -> None:
    class Monitor(trt.trt.IProgressMonitor):
        def __init__(self, last: int) -> None:
            trt.trt.IProgressMonitor.__init__(self)
            self.last, self.told = last, []

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.told.append((phase, parent, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            self.told.append((phase, step))
            return len(self.told) < self.last

        def phase_finish(self, phase: str) -> None:
            self.told.append(phase)

    def build(last: int) -> tuple[Any, Monitor]:
        monitor = Monitor(last)
        return trt.plan(small(), SHAPES, lambda config: setattr(config, "progress_monitor",
                                                                monitor)), monitor

    plan, monitor = build(1000)
    assert plan is not None and monitor.told[0] == ("Building Engine", None, 2)
    assert monitor.told[-1] == "Building Engine" and len(monitor.told) == 13
    plan, monitor = build(5)
    assert plan is None and len(monitor.told) == 5 and "cancelled" in trt.told[-1]


def test_the_timing_cache_and_what_a_plan_says(trt: Trt) -> None:
    content, plans = b"", []
    for _ in range(2):
        def change(config: Any) -> None:
            config.clear_flag(trt.trt.BuilderFlag.TF32)
            cache = config.create_timing_cache(content)
            assert config.set_timing_cache(cache, ignore_mismatch=False)
            made.append(config)

        made: list[Any] = []
        plans.append(tensorrt_stand_in.read_plan(trt.plan(small(), SHAPES, change))[0])
        content = bytes(made[0].get_timing_cache().serialize())
    assert [plan["timed"] for plan in plans] == [5, 0]  # equal layers are timed once
    assert plans[0]["tensorrt"] == "10.3.0" and plans[0]["flags"] == []
    assert plans[0]["profiles"] == [{"x": [list(shape) for shape in SHAPES["x"]]}]
    config = trt.builder.create_builder_config()
    assert config.create_timing_cache(b"nothing of the kind") is None
    other = config.create_timing_cache(content.replace(b"10.3.0", b"10.2.0"))
    assert not config.set_timing_cache(other, ignore_mismatch=False)


def test_plans_of_others_are_refused(open_trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = open_trt()
    plan = bytes(trt.plan(small(), SHAPES))

    def refused(opened: Trt, words: str, content: bytes) -> None:
        assert opened.engine(content) is None and words in opened.told[-1]

    for damaged in (plan[:-1], b"", plan[:40] + bytes([plan[40] ^ 1]) + plan[41:]):
        refused(trt, "Magic tag", damaged)
    refused(open_trt("10.9.0"), "Version tag", plan)
    monkeypatch.setenv("BIDIFF_STAND_IN_FAIL", "deserialize,context")
    refused(trt, "OutOfMemory", plan)
    monkeypatch.delenv("BIDIFF_STAND_IN_FAIL")
    engine = trt.engine(plan)
    monkeypatch.setenv("BIDIFF_EMULATED_FAIL", "cuMemAlloc=2")  # as too little memory does
    refused(trt, "OutOfMemory", plan)
    assert engine.create_execution_context() is None and "OutOfMemory" in trt.told[-1]
    strategy = trt.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert engine.create_execution_context(strategy) is not None


# -- processes and names -------------------------------------------------------------------------

PLAN_OF_ANOTHER_GPU = """
import sys, tensorrt as trt
engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(open(sys.argv[1], "rb").read())
sys.exit(engine is not None)
"""


def test_a_plan_of_another_gpu(trt: Trt, tmp_path) -> None:
    file = tmp_path / "small.plan"
    x, y = info("x", [1, 3, 4, 4]), info("y", None)
    file.write_bytes(trt.plan(wrap([helper.make_node("Relu", ["x"], ["y"])], [x], [y])))
    here = str(emulated_cuda.GPUS[0])
    for gpu, code in ((here, 1), ("90", 0)):
        done = tensorrt_stand_in.run(PLAN_OF_ANOTHER_GPU, tmp_path, str(file),
                                     BIDIFF_EMULATED_GPUS=gpu)
        assert done.returncode == code and ("incompatible device" in done.stderr) == (code == 0)


CUDA_PYTHON = """
import ctypes
from cuda.bindings import driver as cu

def ok(result):
    assert int(result[0]) == 0, result
    return result[1] if len(result) == 2 else result[1:]

ok(cu.cuInit(0))
device = ok(cu.cuDeviceGet(0))
context = ok(cu.cuDevicePrimaryCtxRetain(device))
ok(cu.cuCtxPushCurrent(context))
ok(cu.cuCtxSetCurrent(context))
host, (a, b) = ok(cu.cuMemAllocHost(64)), (ok(cu.cuMemAlloc(64)) for _ in range(2))
free, total = ok(cu.cuMemGetInfo())
assert free == total - 128
stream = ok(cu.cuStreamCreate(1))
ctypes.memset(host, 3, 64)
ok(cu.cuStreamBeginCapture(stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
ok(cu.cuMemcpyHtoDAsync(a, host, 64, stream))
ok(cu.cuMemcpyDtoDAsync(b, a, 64, stream))
ok(cu.cuMemcpyDtoHAsync(host, b, 32, stream))
graph = ok(cu.cuStreamEndCapture(stream))
made = ok(cu.cuGraphInstantiate(graph, 0))
ctypes.memset(host, 5, 64)
ok(cu.cuGraphLaunch(made, stream))
ok(cu.cuStreamSynchronize(stream))
assert ctypes.string_at(host, 64) == bytes([5]) * 64
ctypes.memset(host, 7, 64)
ok(cu.cuMemcpyDtoH(host, b, 32))
assert ctypes.string_at(host, 64) == bytes([5]) * 32 + bytes([7]) * 32
assert int(cu.cuMemcpyDtoHAsync(host, b, 65, stream)[0]) == 1
assert int(cu.cuMemAlloc(1 << 40)[0]) == 2
for call in ((cu.cuGraphExecDestroy, made), (cu.cuGraphDestroy, graph), (cu.cuMemFree, a),
             (cu.cuStreamDestroy, stream), (cu.cuMemFree, b), (cu.cuMemFreeHost, host),
             (cu.cuDevicePrimaryCtxRelease, device)):
    ok(call[0](*call[1:]))
"""


def test_cuda_python_works_on_the_emulated_driver(tmp_path) -> None:
    pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    done = tensorrt_stand_in.run(CUDA_PYTHON, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", tensorrt_stand_in.VERSIONS)
def test_it_has_no_name_that_the_version_has_not(version: str) -> None:
    table, trt = tensorrt_names.table(version), module.make(version)
    for name in vars(trt):
        assert name.startswith("_") or name in table["module"]
    for name, names in table["classes"].items():
        made = getattr(trt, name, None) if name in module.TEMPLATES else None
        for entry in () if made is None else dir(made):
            assert entry.startswith("_") or entry in names or name == "IHostMemory", (name, entry)
    assert hasattr(trt, "IProgressMonitor") == (version != "8.5.3")
    with pytest.raises(AttributeError):
        trt.IProgressMonitors
    with pytest.raises(NotImplementedError):
        trt.Refitter
    with pytest.raises(NotImplementedError, match="max_threads"):
        trt.Runtime.__new__(trt.Runtime).max_threads


def test_each_of_its_names_is_some_versions() -> None:
    """A name that is misspelt here would be left out of every version, unnoticed."""
    for name, template in module.TEMPLATES.items():
        known = {entry for version in tensorrt_stand_in.VERSIONS
                 for entry in tensorrt_names.table(version)["classes"].get(name, [])}
        assert {entry for entry in vars(template) if not entry.startswith("_")} <= known, name
