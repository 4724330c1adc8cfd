"""Graphs for TensorRT: their form, which its parsers set, and what ONNX Runtime makes of them."""

from __future__ import annotations

import functools
import itertools
from collections import Counter

import numpy as np
import onnx
import pytest

from bidiff_deploy import EngineError, UsageError, load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.engines import library
from bidiff_deploy.engines.tensorrt import sidecar
from bidiff_deploy.engines.tensorrt.build.builder import GRAPHS
from bidiff_deploy.graphs import embed
from bidiff_deploy.graphs.float16 import MAPS
from bidiff_deploy.graphs.lowering import (
    VARIANTS,
    lower_for_cuda,
    lower_for_tensorrt,
    parameterized_graph,
)
from bidiff_deploy.graphs.opset import OPSET
from bidiff_deploy.graphs.passes import CPU, TENSORRT, run_passes
from bidiff_deploy.graphs.plugin_nodes import BRANCHES
from bidiff_deploy.graphs.record import Options
from bidiff_deploy.graphs.update import FACTORS
from bidiff_deploy.operators import names as ops
from bidiff_deploy.sampling import sampler
from support.lowered_graphs import (
    LAYOUT,
    FakePlugin,
    attributes,
    check_form,
    contract,
    session,
    step_inputs,
    unprepared,
    value_types,
)
from support.reference_cases import snr

pytest.importorskip("onnxruntime")

packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())
T, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper
SHAPE = (2, 16, 24)


class Made:
    """A bundle's graph for the CPU, and those for TensorRT, each derived and opened once."""

    def __init__(self, path) -> None:
        self.path, self.bundle = path, open_bundle(path)
        self.graphs = StepGraphs(self.bundle)
        self.parameterized = parameterized_graph(self.graphs)
        self.engine = load_bundle(path, threads=1)
        self._derived, self._opened = functools.cache(self._derive), functools.cache(self._open)

    def derive(self, variant="plugin", float16=False, shape=None, plugin="fake", opset=OPSET):
        return self._derived(variant, float16, shape, plugin, opset)

    def _derive(self, variant, float16, shape, plugin, opset):
        if plugin == "fake":
            plugin = FakePlugin() if variant == "plugin" else None
        return lower_for_tensorrt(self.graphs, variant=variant, float16=float16, plugin=plugin,
                                  shape=shape, opset=opset)

    def model(self, *arguments, **options):
        return onnx.load_model_from_string(self.derive(*arguments, **options).model)

    def _open(self, *arguments):
        return session(contract(onnx.load_model_from_string(self._derived(*arguments).model)))

    def run(self, noisy, condition, timestep, variant="plugin", float16=False, shape=None,
            opset=OPSET, alphas=(0.5, 0.9)):
        """Prediction and latent."""
        factors = zip(FACTORS, sampler.update_factors(*alphas), strict=True)
        feeds = {"noisy": noisy, "condition": condition,
                 **step_inputs(variant, self.graphs.constants(timestep)),
                 **{name: np.array([value]) for name, value in factors}}
        return self._opened(variant, float16, shape, "fake", opset).run(
            ["prediction", "latent"], feeds)


@pytest.fixture(scope="module")
def tiny(reference):
    """With attention at one level."""
    made = Made(reference.bundle("tiny", [999, 400, 0]))
    with made.engine:
        yield made


@pytest.fixture(scope="module")
def small(reference):
    """Its first level in full precision, attention in the middle alone."""
    made = Made(reference.bundle("small", [1960, 400, 0]))
    with made.engine:
        yield made


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
    constants = step_inputs(variant, tiny.graphs.constants(400))
    assert list(derived.inputs) == ["noisy", "condition", *constants, *FACTORS]
    assert len(constants) == len(tiny.parameterized.inputs) + (variant != "plugin") * 2 * sum(
        name.endswith("rprelu") for name in tiny.parameterized.inputs)
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
    shipped = {name: value for name, value in tiny.parameterized.constants.items()
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
        np.testing.assert_array_equal(constants[name], tiny.parameterized.constants[name])


@packed
@pytest.mark.parametrize("shape", [None, SHAPE], ids=["dynamic", "static"])
def test_plugin_nodes_compute_what_the_contract_says(small, shape):
    """To the bit what the graph for CUDA gives with the same kernels, where ONNX Runtime fuses
    nothing. The one group norm of its own that this graph has, it is fed."""
    normal = "m0.a/n"
    expected = onnx.ModelProto()
    derived = lower_for_cuda(small.graphs, float16=False)
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
    expected, found = session(expected), session(found)
    noisy, condition = images()
    for timestep in small.bundle.timesteps:
        feeds = {"noisy": noisy, "condition": condition, **small.graphs.constants(timestep),
                 **{name: np.ones(1, np.float32) for name in FACTORS}}
        prediction, fed = found.run(["prediction", normal], feeds)
        (wanted,) = expected.run(["prediction"], {**feeds, normal: fed})
        np.testing.assert_array_equal(prediction, wanted)


# -- what is computed -------------------------------------------------------------------------
COMPUTED = [("plugin", 17, None), *itertools.product(("dense", "dense-int8"), (17, 19),
                                                    (None, SHAPE))]
COMPUTED_IDS = [f"{v}-{o}-{'static' if s else 'dynamic'}" for v, o, s in COMPUTED]


@packed
@pytest.mark.parametrize("variant, opset, shape", COMPUTED, ids=COMPUTED_IDS)
def test_the_network_is_the_bundles(tiny, variant, opset, shape):
    """Rounding alone: no sign of these inputs lies so near 0 that it flips."""
    noisy, condition = images()
    for timestep in tiny.engine.timesteps:
        expected = tiny.engine.predict(noisy, condition, timestep)
        found, _ = tiny.run(noisy, condition, timestep, variant, opset=opset, shape=shape)
        assert snr(expected, found) > 110


@packed
@pytest.mark.parametrize("variant, opset", [("dense", 17), ("dense-int8", 17), ("dense", 19)])
def test_a_network_with_full_precision_layers_is_the_bundles(small, variant, opset):
    noisy, condition = images(1)
    for timestep in small.engine.timesteps:
        expected = small.engine.predict(noisy, condition, timestep)
        found, _ = small.run(noisy, condition, timestep, variant, opset=opset, shape=SHAPE)
        assert snr(expected, found) > 35  # a few signs of a million may flip: 40 to 122 dB


@packed
@pytest.mark.parametrize("variant, opset", [("dense", 17), ("dense-int8", 17), ("dense", 19),
                                            ("dense-int8", 19)])
def test_float16_maps_cost_the_dense_network_what_they_cost_the_kernels(small, variant, opset):
    """Maps of 11 bits flip signs, here of random weights: 22 to 25 dB of the reference's inputs
    with the kernels, that round every map once. Without plugin it is at most 3 dB worse."""
    noisy, condition = images(2)
    for timestep in small.engine.timesteps:
        expected = small.engine.predict(noisy, condition, timestep)
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


# -- what is refused --------------------------------------------------------------------------
def test_plans_know_the_same_variants():
    """Their module loads no onnx, so it has a list of its own."""
    assert sidecar.VARIANTS == (*VARIANTS, *GRAPHS) and set(GRAPHS.values()) < set(VARIANTS)


def test_arguments_are_checked(tiny):
    with pytest.raises(UsageError, match="'int8' is no variant.*plugin, dense, dense-int8"):
        tiny.derive("int8")
    for shape in ((1, 15, 16), (0, 16, 16), (1, 16)):
        with pytest.raises(UsageError, match="multiples of 2"):
            tiny.derive(shape=shape)
    with pytest.raises(UsageError, match="not written in opset 18.*17 or 19"):
        tiny.derive(opset=18)


def test_a_graph_that_contradicts_itself_is_refused(tiny):
    graph = parameterized_graph(tiny.graphs)
    model = graph.model
    model.graph.initializer.append(numpy_helper.from_array(np.array([7]), "seven"))
    model.graph.node.insert(0, helper.make_node("Reshape", ["seven", "seven"], ["wrong"]))
    with pytest.raises(EngineError, match="graph is not its network's.*export the bundle"):
        run_passes(TENSORRT["dense"][len(CPU):], graph, Options(tiny.graphs))


def test_graphs_that_protobuf_cannot_hold_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(embed, "MAX_MODEL_BYTES", 10_000)
    with pytest.raises(EngineError, match=r"weights have \d+ bytes.*10000.*packed"):
        lower_for_tensorrt(tiny.graphs, variant="dense", float16=False)
