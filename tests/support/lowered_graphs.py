"""Graphs for TensorRT run by ONNX Runtime: plugin nodes turned back into the contract's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bidiff_deploy.engines.gpu.step_rows import rows_apart
from bidiff_deploy.graphs.float16 import MAPS
from bidiff_deploy.graphs.opset import OPERATORS
from bidiff_deploy.operators.definitions import functions
from bidiff_deploy.operators.names import DOMAIN, VERSION
from support import run_once

# What importers of onnx-tensorrt 8.5, 8.6, 10.0 and 10.1 take, as read: element types of the first
# input, and the number of inputs.
MAP, SIZES = {TensorProto.FLOAT, TensorProto.FLOAT16}, {TensorProto.INT64}
PARSED = {
    "Abs": (MAP, 1), "Add": (MAP, 2), "AveragePool": (MAP, 1), "Cast": (MAP, 1), "Clip": (MAP, 3),
    "Concat": (MAP | SIZES, None), "Conv": (MAP, None), "DepthToSpace": (MAP, 1),
    "DequantizeLinear": ({TensorProto.INT8}, 3), "Div": (MAP, 2), "Exp": (MAP, 1),
    "Expand": (MAP, 2), "Gather": (MAP, 2), "LeakyRelu": (MAP, 1),
    "MatMul": (MAP, 2), "Min": (MAP, 2), "Mul": (MAP, 2), "QuantizeLinear": (MAP, 3),
    "ReduceMean": (MAP, 1), "Relu": (MAP, 1), "Reshape": (MAP, 2), "Resize": (MAP, 3),
    "Shape": (MAP, 1),
    "Sigmoid": (MAP, 1), "Sign": (MAP, 1), "Slice": (MAP | SIZES, None), "Softmax": (MAP, 1),
    "SpaceToDepth": (MAP, 1), "Split": (MAP, 1), "Sqrt": (MAP, 1), "Sub": (MAP, 2),
    "Transpose": (MAP, 1)}
ATTRIBUTES = {"Shape": set(), "Split": {"axis"}, "Cast": {"to"}, "Reshape": set(),
              "ReduceMean": {"axes", "keepdims"}, "Concat": {"axis"}, "Slice": set(),
              "DequantizeLinear": {"axis"}, "QuantizeLinear": {"axis"}, "Gather": {"axis"},
              "LeakyRelu": {"alpha"}, "Resize": {"coordinate_transformation_mode", "mode"}}

LAYOUT = 77
_KEY = np.int32(0x5A5A5A5A)


class FakePlugin:
    """Prepares words in a form that ``unprepared`` reads back, and notes what it was asked."""

    layout = LAYOUT

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], int]] = []

    def prepare_words(self, words: np.ndarray, in_channels: int) -> np.ndarray:
        self.asked.append((words.shape, in_channels))
        shape = np.array([*words.shape, in_channels], np.int32)
        return np.concatenate([shape, words.ravel() ^ _KEY])


def unprepared(value: np.ndarray) -> np.ndarray:
    return (value[5:] ^ _KEY).reshape(value[:4])


def contract(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with nodes as the op contract has them, for our op library. Kernels of a CPU take
    float32, so where maps are float16 they are cast before and rounded after."""
    names = {function.name: function.input for function in functions()}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.opset_import[:]
    made.opset_import.extend([model.opset_import[0], helper.make_opsetid(DOMAIN, VERSION)])
    types = value_types(model)
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "absent")
    made.graph.initializer.append(zero)
    for node in model.graph.node:
        if node.domain != DOMAIN:
            made.graph.node.append(node)
            continue
        said = attributes(node)
        given, inputs = iter(node.input), []
        for index, name in enumerate(names[node.op_type]):
            value = next(given) if said["inputs"] >> index & 1 else ""
            if name.startswith("words") and said["kernel"]:
                words = unprepared(numpy_helper.to_array(tensors[value]))
                assert words.shape[1] == said["kernel"] and said["layout"] == LAYOUT
                value = f"{value}/back"
                if value not in {tensor.name for tensor in made.graph.initializer}:
                    made.graph.initializer.append(numpy_helper.from_array(words, value))
            if not value and name in ("residual", "time", "skip"):
                value = "absent"
            inputs.append(value)
        assert next(given, None) is None
        half = types[node.output[0]] == TensorProto.FLOAT16
        output = node.output[0]
        if half:
            for index in MAPS[node.op_type]:
                if inputs[index] != "absent":
                    wide = f"{output}/in{index}"
                    made.graph.node.append(helper.make_node("Cast", [inputs[index]], [wide],
                                                            to=TensorProto.FLOAT))
                    inputs[index] = wide
            output = f"{output}/wide"
        kept = {"groups": said["groups"]} if "groups" in said else {}
        made.graph.node.append(helper.make_node(node.op_type, inputs, [output], domain=DOMAIN,
                                                **kept))
        if half:
            made.graph.node.append(helper.make_node("Cast", [output], node.output,
                                                    to=TensorProto.FLOAT16))
    return made


def check_form(model: onnx.ModelProto, static: bool) -> None:
    """That every parser takes the model's nodes, those of our domain left out."""
    graph, found = model.graph, value_types(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # Resize leaves its region out.
    read = {name for node in graph.node for name in node.input if node.op_type != "Resize" or name}
    assert read >= set(constants) and "" not in read
    assert all(tensor.data_location != TensorProto.EXTERNAL for tensor in graph.initializer)
    assert len({node.name for node in graph.node}) == len(graph.node)
    for node in graph.node:
        if node.domain == DOMAIN:
            continue
        types, count = PARSED[node.op_type]
        assert node.domain == "" and node.op_type in OPERATORS
        assert found[node.input[0]] in types and count in (None, len(node.input)), node
        assert set(attributes(node)) <= ATTRIBUTES.get(node.op_type, set(attributes(node))), node
        if node.op_type == "Reshape":
            assert not static or node.input[1] in constants
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero = (constants[name] for name in node.input[1:])
            assert scale.dtype == np.float32 and (scale > 0).all()
            assert zero.dtype == np.int8 and not zero.any() and zero.shape == scale.shape
        if node.op_type == "Slice":
            assert all(name in constants for name in node.input[1:])
            assert constants[node.input[2]].max() < 2**31
    assert not (static and any(node.op_type == "Shape" for node in graph.node))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value, told by the nodes alone; each of its inputs' rules holds."""
    found = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    found.update((tensor.name, tensor.data_type) for tensor in model.graph.initializer)
    for node in model.graph.node:
        said = attributes(node)
        given = found[node.input[0]]
        if node.op_type == "Cast":
            given = said["to"]
        elif node.op_type == "Shape":
            given = TensorProto.INT64
        elif node.op_type == "QuantizeLinear":
            given = TensorProto.INT8
        elif node.op_type == "DequantizeLinear":
            given = found[node.input[1]]
        found.update(dict.fromkeys(node.output, given))
    return found


def session(model: onnx.ModelProto) -> Any:
    """On the CPU, node by node, with our op library where a graph has nodes of ours."""
    return run_once.session(model, fuse=False,
                            packed=any(node.domain == DOMAIN for node in model.graph.node))


def step_inputs(variant, constants):
    """A step's constants as the graph of a variant takes them."""
    return constants if variant == "plugin" else rows_apart(constants)
