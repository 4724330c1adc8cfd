"""Group norms in standard operators: each form against numpy, in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bidiff_deploy.graphs.dense import Dense
from bidiff_deploy.graphs.lower_opset import Lowering
from bidiff_deploy.operators import names as ops
from support.lowered_graphs import session

pytest.importorskip("onnxruntime")
T, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper
GROUPS, EPSILON = 4, 1e-5


def swished(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    grouped = x.astype(np.float64).reshape(len(x), GROUPS, -1)
    normal = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(
        grouped.var(2, keepdims=True) + EPSILON)
    n = normal.reshape(x.shape) * scale[:, None, None] + bias[:, None, None]
    return n / (1 + np.exp(-n))


def lowered(shape: tuple[int, ...], half: bool, opset: int, static: bool,
            scale: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    kind = T.FLOAT16 if half else T.FLOAT
    values = [helper.make_tensor_value_info(name, kind, ["N", shape[1], "H", "W"])
              for name in ("x", "y")]
    node = helper.make_node(ops.GROUP_NORM_SWISH, ["x", "scale", "bias"], ["y"],
                            domain=ops.DOMAIN, groups=GROUPS)
    model = helper.make_model(helper.make_graph([node], "one", values[:1], values[1:], [
        numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(bias, "bias")]))
    nodes, constants = Lowering(model, {}, {"x": (1, *shape[1:])}, shape[0] if static else None,
                                Dense(int8=False), opset).run()
    graph = helper.make_graph(nodes, "one", values[:1], values[1:], [
        numpy_helper.from_array(value, name) for name, value in constants.items()])
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", opset)])


# For each: maps in float16, opset, whether sizes are known, height and width, and the operator
# that tells the form: InstanceNormalization, the square of the whole map, or of what was moved.
FORMS = {
    "two passes": (False, 17, True, (6, 10), None), "two passes, half": (True, 17, True, (6, 10),
                                                                         None),
    "two passes, free": (False, 19, False, (6, 10), None),
    "one pass": (True, 19, True, (6, 10), None), "one pass, free": (True, 19, False, (6, 10), None),
    "instance": (False, 19, True, (6, 10), "InstanceNormalization"),
    "instance, large": (True, 19, True, (160, 128), "InstanceNormalization")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offset", [0, 30], ids=["centred", "off centre"])
def test_a_form_computes_the_norm(form, offset):
    half, opset, static, size, operator = FORMS[form]
    rng = np.random.default_rng(len(form))
    x = (rng.standard_normal((2, 32, *size)) * rng.uniform(0.5, 2, (32, 1, 1)) + offset).astype(
        np.float16 if half else np.float32)
    scale, bias = (rng.uniform(0.5, 2, 32).astype(np.float32),
                   rng.standard_normal(32).astype(np.float32))
    model = lowered(x.shape, half, opset, static, scale, bias)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("InstanceNormalization") == (operator is not None)
    found, = session(model).run(None, {"x": x})
    # A few units of the last place: of the output, and of what an instance norm of a float16 map
    # rounds in between.
    error = np.abs(found - swished(x, scale, bias)).max()
    assert error < (1e-2 if half and operator else 4e-3 if half else 1e-4)


def test_sums_of_squares_in_one_pass_lose_nothing_that_the_map_has():
    """Against two passes, on a map whose means are hundred deviations."""
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((1, 32, 12, 20)) + 100).astype(np.float16)
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.float32)
    expected = swished(x, ones, zeros)
    for opset in (17, 19):
        found, = session(lowered(x.shape, True, opset, True, ones, zeros)).run(None, {"x": x})
        assert np.abs(found - expected).max() < 1e-2


def test_a_constant_map_has_no_negative_variance():
    x = np.full((1, 32, 6, 10), 1000.1, np.float16)
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.float32)
    found, = session(lowered(x.shape, True, 19, True, ones, zeros)).run(None, {"x": x})
    np.testing.assert_allclose(found, 0, atol=1e-2)
