"""A derived graph as TensorRT's network: what the layers of a weakly typed one are told, and what a
configuration does without."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bidiff_deploy.engines.tensorrt.build import network as tensorrt_network


class Layer(SimpleNamespace):
    """One layer, which notes what it is told."""

    def __init__(self, kind: str, name: str, dtype: str, shape: bool):
        output = SimpleNamespace(name=name, dtype=dtype, is_shape_tensor=shape)
        super().__init__(type=kind, told={}, num_outputs=1, get_output=lambda index: output)
        self.set_output_type = self.told.__setitem__

    precision = property(None, lambda self, kind: self.told.update(precision=kind))


def test_a_node_that_becomes_several_layers_keeps_its_precision_in_all():
    """Layers without a name of the graph belong to the node whose output comes next."""
    value = helper.make_tensor_value_info
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
             helper.make_node("Add", ["h", "h"], ["s"]),
             helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Softmax", ["f"], ["m"]),
             helper.make_node("Shape", ["m"], ["n"]),
             helper.make_node("GroupNormSwish", ["h"], ["p"], domain="bidiff"),
             helper.make_node("DequantizeLinear", ["q", "one"], ["d"]),
             helper.make_node("Conv", ["d", "one"], ["c"]),
             helper.make_node("Mul", ["m", "one"], ["y"])]
    model = helper.make_model(helper.make_graph(
        nodes, "g", [value("x", 1, [1]), value("q", TensorProto.INT8, [1])], [value("y", 1, [1])],
        [one]))
    half, full = ({"precision": kind, 0: kind} for kind in ("half", "float"))
    layers = [  # kind, its output, whether that is a shape, what it is to be told
        ("IDENTITY", "h", "half", False, {}), ("SHUFFLE", "(Unnamed) 1", "half", False, half),
        ("ELEMENTWISE", "s", "half", False, half), ("IDENTITY", "f", "float", False, {}),
        ("SHAPE", "(Unnamed) 2", "int32", True, {}),
        ("ELEMENTWISE", "(Unnamed) 3", "float", True, {}),
        ("CAST", "(Unnamed) 5", "half", False, {}), ("SOFTMAX", "m", "float", False, full),
        ("SHAPE", "n", "int32", True, {}), ("PLUGIN_V2", "p", "half", False, {0: "half"}),
        ("CONSTANT", "(Unnamed) 4", "float", False, {}), ("DEQUANTIZE", "d", "float", False, {}),
        ("CONVOLUTION", "c", "float", False, {0: "float"}),  # whose inputs are int8
        ("ELEMENTWISE", "y", "float", False, full)]
    listed = [Layer(*layer[:4]) for layer in layers]
    network = SimpleNamespace(num_layers=len(listed), get_layer=lambda index: listed[index])
    trt = SimpleNamespace(float32="float", float16="half", LayerType=SimpleNamespace(
        CONSTANT="CONSTANT", SHAPE="SHAPE", IDENTITY="IDENTITY", CAST="CAST"))
    tensorrt_network.keep_precision(SimpleNamespace(trt=trt), network, model.SerializeToString())
    assert [layer.told for layer in listed] == [layer[4] for layer in layers]


@pytest.mark.parametrize("version, there, left_out", [
    ((8, 5, 3), ("libcublas.so.11", "libcudnn.so.8"), 0b010),
    ((8, 5, 3), ("libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.9"), 0b111),
    ((8, 6, 1), ("libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.8"), 0b000)])
def test_kernels_of_libraries_that_are_not_here_are_left_out(version, there, left_out,
                                                             monkeypatch):
    """TensorRT 8.5 is of CUDA 11 alone, whatever else lies about."""
    monkeypatch.setattr(tensorrt_network, "_can_open", lambda file: file in there)
    sources = SimpleNamespace(CUBLAS=0, CUBLAS_LT=1, CUDNN=2)
    told, notes = [], []
    config = SimpleNamespace(get_tactic_sources=lambda: 0b1111, set_tactic_sources=told.append)
    tensorrt_network._leave_out_libraries(
        SimpleNamespace(version=version, trt=SimpleNamespace(TacticSource=sources)), config, notes)
    assert told == ([0b1111 & ~left_out] if left_out else []) and len(notes) == len(told)
