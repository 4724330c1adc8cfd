"""Single operators in a graph for TensorRT: what they compute, what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bidiff_deploy import EngineError
from bidiff_deploy.engines import library
from bidiff_deploy.graphs.dense import Dense
from bidiff_deploy.graphs.float16 import MAPS
from bidiff_deploy.graphs.lower_opset import Lowering
from bidiff_deploy.graphs.plugin_nodes import PluginNodes
from bidiff_deploy.operators import names as ops
from support.lowered_graphs import FakePlugin, contract, session
from support.reference_cases import snr

pytest.importorskip("onnxruntime")

packed = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())
T, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper


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
    """The graph in standard operators, or with the plugin's nodes."""
    shapes = {name: (1, size, 6, 10) for name, size in channels.items()}
    nodes, constants = Lowering(model, {}, shapes, None, ours, opset).run()
    graph = helper.make_graph(nodes, "one", model.graph.input, model.graph.output,
                              [numpy_helper.from_array(v, k) for k, v in constants.items()])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 2)]
    return helper.make_model(graph, ir_version=9, opset_imports=imports)


@packed
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("int8, opset", [(False, 17), (True, 17), (True, 19)])
@pytest.mark.parametrize("k", [1, 3])
def test_sums_are_exact(k, int8, opset, half):
    """Scales are powers of two, and a zero: every sum is exact, so an error would show."""
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
    """Fused operators round once at their end, as their kernels do, so both return the same
    float16, except for values half-way between two."""
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
        # Convolutions with float16 outputs also round alpha and their sums: two bits more.
        assert snr(expected, found) > (62 if half else 120)


# -- what is refused --------------------------------------------------------------------------
def standard(*nodes, outputs=("y",)):
    x = helper.make_tensor_value_info("x", T.FLOAT, [*"N", 4, *"HW"])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info(
        name, T.FLOAT, None) for name in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("op", ["Unique", "Gelu", "Restore", "NonZero", "Made"])
def test_unknown_operators_are_refused(op):
    with pytest.raises(EngineError, match=f"operator {op}, which not every TensorRT.*export"):
        lowered(standard(helper.make_node(op, ["x"], ["y"])), Dense(int8=False), {"x": 4})


@pytest.mark.parametrize("nodes, says", [
    ([("InstanceNormalization", ["x", "one", "zero"], ["y"])], "not that of a group norm"),
    ([("ReduceMean", ["x", "x"], ["y"])], "no constant axes"),
    ([("Identity", ["x"], ["y"])], "output y is not computed")])
def test_nodes_that_cannot_be_lowered(nodes, says):
    model = standard(*(helper.make_node(*node) for node in nodes))
    for name, value in (("one", 1), ("zero", 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.full(4, value, np.float32), name))
    with pytest.raises(EngineError, match=says):
        lowered(model, Dense(int8=False), {"x": 4})


def weighted(words, alpha):
    x = np.zeros((1, 40, 6, 10), np.float32)
    model, _ = one(ops.BINARY_CONV, [x, words, alpha], False)
    return model


def choice(at: float, first, second):
    """A graph of y = first where x >= at, else second; a str is the name of a value."""
    numbers = {"at": at, "first": first, "second": second}
    tensors = [numpy_helper.from_array(np.full(1, value, np.float32), name)
               for name, value in numbers.items() if not isinstance(value, str)]
    read = {name: value if isinstance(value, str) else name for name, value in numbers.items()}
    nodes = [helper.make_node("GreaterOrEqual", ["x", read["at"]], ["bit"]),
             helper.make_node("Where", ["bit", read["first"], read["second"]], ["y"])]
    ends = [helper.make_tensor_value_info(name, T.FLOAT, [1, 2, None, None]) for name in "xy"]
    return helper.make_model(helper.make_graph(nodes, "one", ends[:1], ends[1:], tensors),
                             ir_version=9, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("opset", [17, 19])
@pytest.mark.parametrize("at, first, second", [(0.5, -5 / 6, -1 / 6), (0.0, 0.25, -0.25),
                                               (-0.125, 0.0, 0.0)])
def test_a_choice_between_numbers_is_exact(at, first, second, opset):
    x = np.array([at, np.nextafter(np.float32(at), np.float32(-9)), -3, 3], np.float32)
    x = np.broadcast_to(x.reshape(1, 1, 2, 2), (1, 2, 2, 2)).copy()
    model = lowered(choice(at, first, second), Dense(int8=False), {"x": 2, "bit": 2, "y": 2}, opset)
    assert {"GreaterOrEqual", "Where"}.isdisjoint(node.op_type for node in model.graph.node)
    found = session(model).run(["y"], {"x": x})[0]
    np.testing.assert_array_equal(found, np.where(x >= np.float32(at), np.float32(first),
                                                  np.float32(second)))


@pytest.mark.parametrize("numbers", [(0.5, "x", 0.0), (0.5, 2.0, 0.0), ("x", 0.5, 0.0)])
def test_other_choices_are_refused(numbers):
    with pytest.raises(EngineError, match="the choice y is not one of two numbers .*export"):
        lowered(choice(*numbers), Dense(int8=False), {"x": 2, "bit": 2, "y": 2})


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
    with pytest.raises(EngineError, match="TensorRT plugin has no operator bidiff.Foo"):
        lowered(model, PluginNodes(None), {"x": 4})


def test_scales_beyond_float16_are_refused():
    x = np.zeros((1, 40, 6, 10), np.float32)
    model, _ = one(ops.BINARY_CONV, [x, np.zeros((8, 1, 1, 2), np.int32),
                                     np.full(8, 65520, np.float32)], True)
    with pytest.raises(EngineError, match="beyond the range of float16.*--precision exact"):
        lowered(model, Dense(int8=False), {"i0": 40})
    lowered(model, Dense(int8=True), {"i0": 40})  # whose scales are float32
