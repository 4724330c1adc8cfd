"""Graphs for TensorRT: their form, which its parsers set, and what ONNX Runtime makes of them."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from conftest import snr

from bidiff_deploy import EngineError, UsageError, load_bundle, ops, sampler
from bidiff_deploy.bundle import open_bundle
from bidiff_deploy.engines import cuda_graph, library, lower_opset, tensorrt_graph
from bidiff_deploy.engines.half_graph import MAPS
from bidiff_deploy.engines.loop_graph import FACTORS
from bidiff_deploy.engines.step_graphs import StepGraphs
from bidiff_deploy.engines.tensorrt_dense import Dense
from bidiff_deploy.engines.tensorrt_graph import VARIANTS, derive
from bidiff_deploy.engines.tensorrt_nodes import BRANCHES, PluginNodes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tensorrt_graphs import (LAYOUT, FakePlugin, attributes, check_form, contract,  # noqa: E402
                             session, unprepared, value_types)

packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())
T, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper
SHAPE = (2, 16, 24)


class Made:
    """A bundle's promoted graph, and what is derived from it."""

    def __init__(self, path) -> None:
        self.path, self.bundle = path, open_bundle(path)
        self.graphs = StepGraphs(self.bundle)
        self.promoted = self.graphs.promoted()
        self._sessions = {}

    def derive(self, variant="plugin", float16=False, shape=None, plugin="fake", **options):
        if plugin == "fake":
            plugin = FakePlugin() if variant == "plugin" else None
        return derive(self.promoted, self.bundle.config, variant=variant, float16=float16,
                      plugin=plugin, shape=shape, **options)

    def model(self, *arguments, **options):
        return onnx.load_model_from_string(self.derive(*arguments, **options).model)

    def run(self, noisy, condition, timestep, *arguments, alphas=(0.5, 0.9), **options):
        """Prediction and latent."""
        key = arguments, tuple(options.items())
        if key not in self._sessions:
            self._sessions[key] = session(contract(self.model(*arguments, **options)))
        factors = zip(FACTORS, sampler.update_factors(*alphas), strict=True)
        feeds = {"noisy": noisy, "condition": condition, **self.graphs.constants(timestep),
                 **{name: np.array([value]) for name, value in factors}}
        return self._sessions[key].run(["prediction", "latent"], feeds)


@pytest.fixture(scope="module")
def tiny(reference):
    """With attention at one level."""
    return Made(reference.bundle("tiny", [999, 400, 0]))


@pytest.fixture(scope="module")
def small(reference):
    """Its first level in full precision, attention in the middle alone."""
    return Made(reference.bundle("small", [1960, 400, 0]))


def images(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).random((2, shape[0], 3, *shape[1:]), np.float32)


# -- the form ---------------------------------------------------------------------------------
FORMS = list(itertools.product(VARIANTS, (False, True), (None, SHAPE)))
FORM_IDS = [f"{v}-{'float16' if h else 'float32'}-{'static' if s else 'dynamic'}"
            for v, h, s in FORMS]


@pytest.mark.parametrize("variant, float16, shape", FORMS, ids=FORM_IDS)
def test_parsers_take_the_form(tiny, variant, float16, shape):
    derived = tiny.derive(variant, float16, shape)
    model = onnx.load_model_from_string(derived.model)
    graph = model.graph
    assert derived.opset == 17 and model.ir_version == 8 and not model.functions
    assert {(o.domain, o.version) for o in model.opset_import} == {("", 17)} | (
        {("bidiff", 2)} if variant == "plugin" else set())
    check_form(model, static=shape is not None)
    constants = {tensor.name for tensor in graph.initializer}
    if variant != "dense-int8":
        assert all(node.input[1] in constants for node in graph.node if node.op_type == "Conv")
    assert (variant == "plugin") == any(node.domain == ops.DOMAIN for node in graph.node)


@pytest.mark.parametrize("variant, float16, shape", FORMS, ids=FORM_IDS)
def test_types_agree(tiny, variant, float16, shape):
    model = tiny.model(variant, float16, shape)
    # Our nodes have no inference of types; those of the contract have the definitions'.
    if variant != "plugin":
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True,
                                                     data_prop=True).graph
        output = next(value for value in inferred.output if value.name == "prediction")
        assert len(output.type.tensor_type.shape.dim) == 4
        typed = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
        told = value_types(model)
        assert {name: told[name] for name in typed} == typed
    else:
        onnx.checker.check_model(model)
        session(contract(model))  # ONNX Runtime infers and checks every type
    found = value_types(model)
    kinds = Counter(found[node.output[0]] for node in model.graph.node if node.op_type == "Conv"
                    or node.domain == ops.DOMAIN)
    if not float16:
        assert T.FLOAT16 not in found.values()
    else:  # all but the first layer, and by opset 17 what is summed in int8
        assert found["stem"] == T.FLOAT
        counts = {"plugin": (1, 32), "dense": (1, 37), "dense-int8": (29, 9)}[variant]
        assert (kinds[T.FLOAT], kinds[T.FLOAT16]) == counts
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == T.FLOAT


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [None, SHAPE])
def test_inputs_are_listed(tiny, variant, shape):
    derived = tiny.derive(variant, shape=shape)
    n, h, w = shape or "NHW"
    constants = tiny.graphs.constants(400)
    assert list(derived.inputs) == ["noisy", "condition", *tiny.promoted.inputs, *FACTORS]
    assert derived.outputs == ("prediction", "latent")
    for name, dims in derived.inputs.items():
        expected = ((n, 3, h, w) if name in ("noisy", "condition") else (1,) if name in FACTORS
                    else constants[name].shape)
        assert dims == expected
    graph = onnx.load_model_from_string(derived.model).graph
    for value in graph.output:
        assert tuple(d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim) == (
            n, 3, h, w)


# -- the plugin's nodes -----------------------------------------------------------------------
@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
def test_plugin_nodes(tiny, float16):
    plugin = FakePlugin()
    model = tiny.model("plugin", float16, plugin=plugin)
    found = value_types(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    shipped = {name: value for name, value in tiny.promoted.constants.items()
               if name.endswith(".words")}
    nodes = [node for node in model.graph.node if node.domain == ops.DOMAIN]
    assert {node.op_type for node in nodes} == {*MAPS} - {ops.BINARY_CONV}
    maps = T.FLOAT16 if float16 else T.FLOAT
    for node in nodes:
        said = attributes(node)
        branches = BRANCHES[node.op_type]
        expected = {"plugin_namespace", "plugin_version", "inputs"}
        expected |= {"kernel", "layout"} if branches else set()
        norm = node.op_type in (ops.NORM_BINARY_CONV, ops.GROUP_NORM_SWISH)
        assert set(said) == expected | ({"groups"} if norm else set())
        assert (said["plugin_namespace"], said["plugin_version"]) == (b"bidiff", b"1")
        there = [index for index in range(12) if said["inputs"] >> index & 1]
        assert len(there) == len(node.input)
        for index, name in zip(there, node.input):
            if index in branches:
                words = shipped[name.removesuffix("/prepared")]
                np.testing.assert_array_equal(unprepared(constants[name]), words)
                assert said["kernel"] == words.shape[1] and said["layout"] == LAYOUT
                assert found[name] == T.INT32
            else:
                assert found[name] == (maps if index in MAPS[node.op_type] else T.FLOAT)
        assert found[node.output[0]] == maps
    # Half of the residual blocks' halves add time, the other half a skip; never both.
    masks = {attributes(node)["inputs"] for node in nodes
             if node.op_type == ops.NORM_BINARY_CONV}
    assert masks == {0b011111111, 0b101111111}
    alphas = {name.removesuffix(".words"): value.shape[0] for name, value in shipped.items()}
    assert sorted(plugin.asked) == sorted(
        (value.shape, alphas[name.removesuffix(".words")]) for name, value in shipped.items())


def test_without_a_plugin_words_are_the_contracts(tiny):
    model = tiny.model("plugin", plugin=None)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    words = [name for name in constants if name.endswith(".words")]
    assert len(words) == 28 and not any(name.endswith("/prepared") for name in constants)
    for node in model.graph.node:
        if node.domain == ops.DOMAIN and BRANCHES[node.op_type]:
            assert attributes(node)["kernel"] == 0
    for name in words:
        np.testing.assert_array_equal(constants[name], tiny.promoted.constants[name])


@packed
@pytest.mark.parametrize("shape", [None, SHAPE], ids=["dynamic", "static"])
def test_plugin_nodes_compute_what_the_contract_says(small, shape):
    """To the bit what the graph for CUDA gives with the same kernels, where ONNX Runtime fuses
    nothing. The one group norm of its own that this graph has, it is fed."""
    normal = "m0.a/n"
    expected = onnx.ModelProto()
    derived = cuda_graph.derive(small.promoted, small.bundle.config, float16=False)
    expected.CopyFrom(derived.model)
    kept = [node for node in expected.graph.node if normal not in node.output]
    assert len(kept) == len(expected.graph.node) - 1
    del expected.graph.node[:]
    expected.graph.node.extend(kept)
    expected.graph.input.append(helper.make_tensor_value_info(normal, T.FLOAT, None))
    for tensor in expected.graph.initializer:
        if tensor.name in derived.constants:
            tensor.CopyFrom(numpy_helper.from_array(np.array(derived.constants[tensor.name]),
                                                    tensor.name))
    found = contract(small.model("plugin", shape=shape))
    found.graph.output.append(helper.make_tensor_value_info(normal, T.FLOAT, None))
    expected, found = session(expected, fuse=False), session(found, fuse=False)
    noisy, condition = images()
    for timestep in small.bundle.timesteps:
        feeds = {"noisy": noisy, "condition": condition, **small.graphs.constants(timestep)}
        factors = {name: np.ones(1, np.float32) for name in FACTORS}
        prediction, fed = found.run(["prediction", normal], {**feeds, **factors})
        np.testing.assert_array_equal(prediction, expected.run(None, {**feeds, normal: fed})[0])


# -- what is computed -------------------------------------------------------------------------
@packed
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_is_the_bundles(tiny, variant):
    """Rounding alone: no sign of these inputs lies so near 0 that it flips."""
    noisy, condition = images()
    with load_bundle(tiny.path, threads=1) as engine:
        for timestep in engine.timesteps:
            expected = engine.predict(noisy, condition, timestep)
            found, _ = tiny.run(noisy, condition, timestep, variant)
            assert snr(expected, found) > 110


@packed
@pytest.mark.parametrize("variant", ["dense", "dense-int8"])
def test_a_network_with_full_precision_layers_is_the_bundles(small, variant):
    noisy, condition = images(1)
    with load_bundle(small.path, threads=1) as engine:
        for timestep in engine.timesteps:
            expected = engine.predict(noisy, condition, timestep)
            found, _ = small.run(noisy, condition, timestep, variant)
            assert snr(expected, found) > 35  # a few signs of a million may flip: 40 to 122 dB


@packed
@pytest.mark.parametrize("variant, opset", [("dense", 17), ("dense-int8", 17), ("dense-int8", 19)])
def test_float16_maps_cost_the_dense_network_what_they_cost_the_kernels(small, variant, opset):
    """Maps of 11 bits flip signs, here of random weights: 22 to 25 dB of the reference's inputs
    with the kernels, that round every map once. Without plugin it is no less than 3 dB worse."""
    noisy, condition = images(2)
    with load_bundle(small.path, threads=1) as engine:
        for timestep in engine.timesteps:
            expected = engine.predict(noisy, condition, timestep)
            kernels, _ = small.run(noisy, condition, timestep, "plugin", float16=True)
            dense, _ = small.run(noisy, condition, timestep, variant, float16=True, opset=opset)
            assert snr(expected, kernels) > 18
            assert snr(expected, dense) > snr(expected, kernels) - 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_update_is_the_samplers(tiny, variant):
    if variant == "plugin" and library.library_path() is None:
        pytest.skip(library.missing_reason())
    noisy, condition = images(3) * 6
    for alphas in ((0.3, 0.6), (0.7, 1.0)):
        prediction, latent = tiny.run(noisy, condition, 400, variant, alphas=alphas)
        expected = sampler.ddim_update(noisy, prediction, *alphas)
        np.testing.assert_array_equal(latent, expected)


def one(op, inputs, half, **said):
    """A graph of one of our operators: maps are inputs, the rest constants."""
    fed = [value for index, value in enumerate(inputs) if index in MAPS[op] and value.ndim == 4]
    names, values, constants = [], [], []
    kind = T.FLOAT16 if half else T.FLOAT
    for index, value in enumerate(inputs):
        names.append(f"i{index}")
        if any(value is one for one in fed):
            values.append(helper.make_tensor_value_info(f"i{index}", kind, value.shape))
        elif index in MAPS[op] and half:
            constants.append(numpy_helper.from_array(value.astype(np.float16), f"i{index}"))
        else:
            constants.append(numpy_helper.from_array(value, f"i{index}"))
    y = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph([helper.make_node(op, names, ["y"], domain=ops.DOMAIN, **said)],
                              "one", values, [y], constants)
    model = helper.make_model(graph, ir_version=9, opset_imports=[
        helper.make_opsetid("", 18), helper.make_opsetid(ops.DOMAIN, 2)])
    return model, {f"i{index}": value.astype(np.float16) if half else value
                   for index, value in enumerate(inputs) if any(value is one for one in fed)}


def lowered(model, ours, channels, opset=17):
    """The same graph in standard operators, or with the plugin's nodes."""
    shapes = {name: (1, size, 6, 10) for name, size in channels.items()}
    nodes, constants = lower_opset.Lowering(model, {}, shapes, None, ours, opset).run()
    graph = helper.make_graph(nodes, "one", model.graph.input, model.graph.output,
                              [numpy_helper.from_array(v, k) for k, v in constants.items()])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 2)]
    return helper.make_model(graph, ir_version=9, opset_imports=imports)


@packed
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("int8, opset", [(False, 17), (True, 17), (True, 19)])
@pytest.mark.parametrize("k", [1, 3])
def test_sums_are_exact(k, int8, opset, half):
    """Scales that are powers of two, and a zero: what is not exact would show."""
    rng = np.random.default_rng(k)
    x = rng.integers(-4, 5, (2, 40, 6, 10)).astype(np.float32) / 4  # many meet their threshold
    x[0, :, 0, 0] = -0.0
    words = rng.integers(-2**31, 2**31, (24, k, k, 2)).astype(np.int32)
    alpha = (2.0 ** -rng.integers(0, 5, 24)).astype(np.float32)
    alpha[3] = 0
    threshold = rng.integers(-2, 3, 40).astype(np.float32) / 4
    rprelu = rng.integers(-8, 9, (3, 24)).astype(np.float32) / 8
    residual = rng.integers(-8, 9, (2, 24, 6, 10)).astype(np.float32) / 4
    time = rng.integers(-8, 9, 24).astype(np.float32) / 4
    model, feeds = one(ops.BINARY_CONV, [x, words, alpha, threshold, rprelu, residual, time], half)
    node = lowered(model, PluginNodes(FakePlugin()), {"i0": 40}, opset)
    dense = lowered(model, Dense(int8=int8), {"i0": 40}, opset)
    assert not any(node.domain for node in dense.graph.node)
    expected = session(contract(node)).run(None, feeds)[0]
    found = session(dense).run(None, feeds)[0]
    np.testing.assert_array_equal(found, expected)


@packed
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("case", ["norm", "norm_conv", "norm_alone", "fusion", "down", "up"])
def test_operators_without_the_plugin(case, half):
    """Fused operators round once at their end, as their kernels do: but for values that lie at
    such a border both give the same float16."""
    rng = np.random.default_rng(7)

    def normal(*shape, scale=1.0, shift=0.0):
        return (scale * rng.standard_normal(shape) + shift).astype(np.float32)

    def branch(channels, k):
        words = rng.integers(-2**31, 2**31, (channels, k, k, 1)).astype(np.int32)
        return [words, normal(channels, scale=0.1), normal(channels, scale=0.3),
                normal(3, channels, scale=0.3)]

    maps = [normal(2, 24, 6, 10).astype(np.float16).astype(np.float32) for _ in range(2)]
    norm, none = [normal(24, scale=0.2, shift=1), normal(24)], np.zeros(1, np.float32)
    op, inputs, said = {
        "norm": (ops.GROUP_NORM_SWISH, [maps[0], *norm], {"groups": 4}),
        "norm_conv": (ops.NORM_BINARY_CONV, [maps[0], *norm, *branch(24, 3), normal(24), maps[1]],
                      {"groups": 4}),
        "norm_alone": (ops.NORM_BINARY_CONV, [maps[0], *norm, *branch(24, 3), none, none],
                       {"groups": 24}),
        "fusion": (ops.BINARY_FUSION, [*maps, *branch(24, 1), *branch(24, 1)], {}),
        "down": (ops.BINARY_DOWN, [maps[0], *branch(12, 3), *branch(12, 3)], {}),
        "up": (ops.BINARY_UP, [maps[0], *branch(24, 3), *branch(24, 3)], {})}[case]
    model, feeds = one(op, inputs, half, **said)
    inner = {"i0": 24, "i1": 24, "y/h": 24, "y/mixed1": 24, "y/mixed2": 24, "y/first": 12,
             "y/second": 12}
    expected = session(contract(lowered(model, PluginNodes(None), {"i0": 24}))).run(None, feeds)[0]
    for int8 in (False, True):
        found = session(lowered(model, Dense(int8=int8), inner)).run(None, feeds)[0]
        assert found.dtype == expected.dtype and found.shape == expected.shape
        # Convolutions that give float16 round alpha and their sums as well: two bits more.
        assert snr(expected, found) > (62 if half else 120)


# -- what is refused --------------------------------------------------------------------------
def test_arguments_are_checked(tiny):
    with pytest.raises(UsageError, match="'int8' is no variant.*plugin, dense, dense-int8"):
        tiny.derive("int8")
    for shape in ((1, 15, 16), (0, 16, 16), (1, 16)):
        with pytest.raises(UsageError, match="multiples of 2"):
            tiny.derive(shape=shape)
    with pytest.raises(UsageError, match="opset 18 is none.*17 or 19"):
        tiny.derive(opset=18)


def test_graphs_that_protobuf_can_not_hold_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(tensorrt_graph, "_LIMIT", 10_000)
    with pytest.raises(EngineError, match=r"weights take \d+ bytes.*10000.*packed"):
        tiny.derive("dense")


def standard(*nodes, outputs=("y",)):
    x = helper.make_tensor_value_info("x", T.FLOAT, [*"N", 4, *"HW"])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info(
        name, T.FLOAT, None) for name in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("op", ["Unique", "Gelu", "Restore", "NonZero", "Made"])
def test_unknown_operators_are_refused(op):
    with pytest.raises(EngineError, match=f"operator {op}, which is none.*export"):
        lowered(standard(helper.make_node(op, ["x"], ["y"])), Dense(int8=False), {"x": 4})


@pytest.mark.parametrize("nodes, told", [
    ([("InstanceNormalization", ["x", "one", "zero"], ["y"])], "not that of a group norm"),
    ([("ReduceMean", ["x", "x"], ["y"])], "no constant axes"),
    ([("Identity", ["x"], ["y"])], "output y is not computed")])
def test_nodes_that_can_not_be_lowered(nodes, told):
    model = standard(*(helper.make_node(*node) for node in nodes))
    for name, value in (("one", 1), ("zero", 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.full(4, value, np.float32), name))
    with pytest.raises(EngineError, match=told):
        lowered(model, Dense(int8=False), {"x": 4})


def weighted(words, alpha):
    x = np.zeros((1, 40, 6, 10), np.float32)
    model, _ = one(ops.BINARY_CONV, [x, words, alpha], False)
    return model


@pytest.mark.parametrize("ours", [Dense(int8=True), PluginNodes(FakePlugin())])
def test_weights_that_are_inputs_are_refused(ours):
    model = weighted(np.zeros((8, 1, 1, 2), np.int32), np.ones(8, np.float32))
    words = next(tensor for tensor in model.graph.initializer if tensor.name == "i1")
    model.graph.initializer.remove(words)
    model.graph.input.append(helper.make_tensor_value_info("i1", T.INT32, [8, 1, 1, 2]))
    with pytest.raises(EngineError, match="weights i1 are? no constants?.*export"):
        lowered(model, ours, {"i0": 40})


def test_weights_of_another_shape_are_refused():
    for words, alpha in ((np.zeros((8, 1, 1, 1), np.int32), np.ones(8, np.float32)),
                         (np.zeros((8, 1, 1, 2), np.int32), np.ones(7, np.float32))):
        with pytest.raises(EngineError, match="i1 have shape .* 40 channels"):
            lowered(weighted(words, alpha), Dense(int8=False), {"i0": 40})


def test_operators_that_are_not_ours_are_refused():
    model = standard(helper.make_node("Foo", ["x"], ["y"], domain=ops.DOMAIN))
    with pytest.raises(EngineError, match="bidiff.Foo has no form in standard operators"):
        lowered(model, Dense(int8=False), {"x": 4})
    with pytest.raises(EngineError, match="bidiff.Foo is no operator of the TensorRT plugin"):
        lowered(model, PluginNodes(None), {"x": 4})


def test_scales_beyond_float16_are_refused():
    x = np.zeros((1, 40, 6, 10), np.float32)
    model, _ = one(ops.BINARY_CONV, [x, np.zeros((8, 1, 1, 2), np.int32),
                                     np.full(8, 65520, np.float32)], True)
    with pytest.raises(EngineError, match="beyond the range of float16.*--precision exact"):
        lowered(model, Dense(int8=False), {"i0": 40})
    lowered(model, Dense(int8=True), {"i0": 40})  # whose scales are float32
