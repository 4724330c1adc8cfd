"""The graph for CUDA: which operators remain, types of values, bytes on the device."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.engines import library
from bidiff_deploy.engines.gpu.step_rows import StepRows
from bidiff_deploy.engines.onnxruntime.session import session_options
from bidiff_deploy.errors import EngineError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.graphs.float16 import MAPS, half
from bidiff_deploy.graphs.inline import KERNELS
from bidiff_deploy.graphs.lowering import lower_for_cuda, parameterized_graph
from bidiff_deploy.graphs.update import FACTORS
from bidiff_deploy.operators import names as ops
from bidiff_deploy.operators.names import DOMAIN
from bidiff_deploy.sampling import sampler
from support.reference_cases import snr

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
PUBLISHED_WEIGHTS = 51_280_387  # parameters of the published x2 network
LAYERS = (ops.BINARY_CONV, ops.GROUP_NORM_SWISH)


def derived(path, *, float16):
    graphs = StepGraphs(open_bundle(path))
    return lower_for_cuda(graphs, float16=float16), graphs


def types(graph):
    """Element type of every value, from the nodes alone."""
    found = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    found.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    for node in graph.node:
        cast = next((a.i for a in node.attribute if a.name == "to"), None)
        fixed = next((a.t.data_type for a in node.attribute if a.name == "value"), None)
        given = {"Shape": onnx.TensorProto.INT64}.get(node.op_type) or cast or fixed
        for output in node.output:
            found[output] = given or (found[node.input[0]] if node.input else
                                      onnx.TensorProto.INT64)
    return found


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "float16"])
def tiny(request, reference):
    return (*derived(reference.bundle("tiny", [999, 400, 0]), float16=request.param),
            request.param)


def test_only_operators_with_kernels_remain(tiny):
    graph, _, _ = tiny
    ours = Counter(node.op_type for node in graph.model.graph.node if node.domain == DOMAIN)
    assert set(ours) <= {*KERNELS, *LAYERS} and set(KERNELS) <= set(ours)
    assert not graph.model.functions
    for definition in (*KERNELS, *LAYERS):
        assert definition in MAPS


def test_types(tiny):
    graph, graphs, float16 = tiny
    graph = graph.model.graph
    found = types(graph)
    maps = HALF if float16 else FLOAT
    shipped = {tensor.name: tensor for tensor in
               parameterized_graph(graphs).model.graph.initializer}
    for node in graph.node:
        kinds = {index: found[name] for index, name in enumerate(node.input) if name}
        if node.domain == DOMAIN:
            for index, kind in kinds.items():
                is_map = index in MAPS[node.op_type]
                words = node.input[index].endswith(".words")
                assert kind == (maps if is_map else onnx.TensorProto.INT32 if words else FLOAT), \
                    (node.op_type, index)
        elif node.op_type in ("Softmax", "InstanceNormalization") or node.output[0] == "stem":
            assert set(kinds.values()) == {FLOAT}
        elif node.op_type in ("Conv", "MatMul"):
            assert set(kinds.values()) == {maps}
        elif node.op_type in ("Add", "Mul", "Div", "Sub", "Concat"):
            assert len(set(kinds.values())) == 1, node.name
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == FLOAT == found[value.name]
    for tensor in graph.initializer:  # binary weights as they were shipped
        if tensor.name.endswith(".words"):
            assert tensor == shipped[tensor.name]


def test_nothing_that_a_step_computes_on_the_cpu_goes_to_the_gpu(tiny):
    """Else ONNX Runtime inserts copies, with which it captures no CUDA graph. Reshape may
    read shapes: it takes them from the host."""
    graph, _, _ = tiny
    shapes = {node.output[0] for node in graph.model.graph.node if node.op_type == "Shape"}
    for node in graph.model.graph.node:
        if shapes.intersection(node.input):
            assert node.op_type == "Reshape" and node.input[1] in shapes
            assert node.input[0] not in shapes


def test_weights_on_the_device(reference):
    """Of the published network: at most a ninth of all its weights in float16."""
    graph, graphs = derived(reference.bundle("full", [1960, 1920, 0]), float16=True)
    names = [tensor.name for tensor in graph.model.graph.initializer]
    assert set(graph.constants) <= set(names) and len(names) == len(set(names))
    sizes = {"words": 0, "float16": 0, "vectors": 0}
    for value in graph.constants.values():
        kind = ("words" if value.dtype == np.int32 else
                "float16" if value.dtype == np.float16 else "vectors")
        sizes[kind] += value.nbytes
    # Words once: ONNX Runtime keeps them in the host's memory, the GPU has the kernels' form.
    assert sizes["words"] == sum(prepared(value.shape, -1) for name, value
                                 in graph.constants.items() if name.endswith(".words"))
    on_device = (sum(prepared(value.shape, 0) for name, value in graph.constants.items()
                     if name.endswith(".words")) + sizes["float16"] + sizes["vectors"]
                 + 4 * StepRows(graphs, 1960).size)
    assert on_device <= PUBLISHED_WEIGHTS * 2 / 9, on_device


def prepared(shape, form):
    """Bytes of words (Cout, k, k, words): as shipped (-1), on the GPU (0)."""
    out, k, _, words = shape
    if form:
        return 4 * out * k * k * words
    import ctypes

    from bidiff_deploy.engines.gpu import library as cuda_library

    bytes_ = ctypes.c_uint64()
    cuda_library.call("prepared_bytes", out, 32 * words, k, ctypes.byref(bytes_))
    return bytes_.value


def small_graph(weight, *, external=False):
    """x -> Conv3x3-like "stem" -> Conv -> Sigmoid -> Add with a vector and the stem."""
    helper = onnx.helper
    nodes = [helper.make_node("Conv", ["x", "w"], ["stem"], kernel_shape=[1, 1]),
             helper.make_node("Conv", ["stem", "w"], ["a"], kernel_shape=[1, 1]),
             helper.make_node("Sigmoid", ["a"], ["gate"]),
             helper.make_node("Mul", ["a", "gate"], ["b"]),
             helper.make_node("Add", ["b", "v"], ["c"]),
             helper.make_node("Add", ["c", "stem"], ["y"])]
    w = onnx.numpy_helper.from_array(weight, "w")
    if external:
        w = onnx.TensorProto(name="w", data_type=FLOAT, dims=weight.shape,
                             data_location=onnx.TensorProto.EXTERNAL)
        w.external_data.add(key="location", value="weights.bin")
        w.external_data.add(key="length", value=str(weight.nbytes))
    v = onnx.numpy_helper.from_array(np.full((2, 1, 1), 0.5, np.float32), "v")
    image = [helper.make_tensor_value_info(name, FLOAT, ["N", 2, "H", "W"]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", image[:1], image[1:], [w, v])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_small_graph():
    weight = np.array([[1, 0.25], [-0.5, 2]], np.float32).reshape(2, 2, 1, 1)
    model = small_graph(weight)
    before = model.SerializeToString()
    changed, constants = half(model, {}, frozenset({"stem"}))
    assert model.SerializeToString() == before and constants == {}
    onnx.checker.check_model(changed, full_check=True)  # types agree
    inferred = onnx.shape_inference.infer_shapes(changed, strict_mode=True)
    found = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert found["stem"] == FLOAT == found["gate"]  # an operator that is not known stays float32
    assert found["a"] == found["b"] == found["c"] == HALF
    assert [node.op_type for node in changed.graph.node].count("Cast") == 4  # stem, a, gate, y
    tensors = {tensor.name: tensor.data_type for tensor in changed.graph.initializer}
    assert tensors == {"w": FLOAT, "w/half": HALF, "v/half": HALF}


def test_external_weights_are_rounded_once():
    weight = np.array([[1 + 2**-12, 1e-9], [65504, -3]], np.float32).reshape(2, 2, 1, 1)
    changed, constants = half(small_graph(weight, external=True), {"w": weight},
                              frozenset({"stem"}))
    assert set(constants) == {"w", "w/half"}
    np.testing.assert_array_equal(constants["w/half"], weight.astype(np.float16))
    entry = next(t for t in changed.graph.initializer if t.name == "w/half")
    assert {e.key: e.value for e in entry.external_data}["length"] == str(weight.nbytes // 2)


def test_weights_beyond_float16_are_refused():
    weight = np.full((2, 2, 1, 1), 65520, np.float32)
    with pytest.raises(EngineError, match="w have values beyond.*--precision exact"):
        half(small_graph(weight), {}, frozenset({"stem"}))


@pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())
def test_float16_maps_leave_the_function_of_the_network(reference, tmp_path):
    """On the CPU, whose kernels take float32: ONNX Runtime casts around them, and leaves out casts
    that cancel out, so fewer values are rounded than on a GPU."""
    ort = pytest.importorskip("onnxruntime")
    data = reference.arrays("forward_small")
    path = tmp_path / "half.bundle"
    manifest = export_bundle(reference.read("small"), path, precision="half",
                             timesteps=sorted(map(int, data["timesteps"]), reverse=True))
    assert manifest["precision"] == "float16"
    graph, graphs = derived(path, float16=True)
    options = session_options(1)
    options.register_custom_ops_library(str(library.library_path()))
    values = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
              for name, value in graph.constants.items()}
    options.add_external_initializers(list(values), list(values.values()))
    session = ort.InferenceSession(graph.serialized(), options,
                                   providers=["CPUExecutionProvider"])
    factors = zip(FACTORS, sampler.update_factors(0.5, 0.9), strict=True)
    feeds = {"noisy": data["noisy"], "condition": data["condition"],
             **{name: np.array([value]) for name, value in factors}}
    for timestep, expected in zip(data["timesteps"], data["prediction"]):
        found = session.run(["prediction"], {**feeds, **graphs.constants(int(timestep))})[0]
        # 33 to 64 dB: 11 bits leave some 66 dB a layer, and a few signs flip.
        assert found.dtype == np.float32 and snr(expected, found) > 28
