"""The stand-in for TensorRT refuses the graphs that TensorRT's parsers refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bidiff_deploy.operators import names as ops
from support.cuda_cases import cases
from support.tensorrt_networks import info, node, wrap

pytest.importorskip("onnxruntime")


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
