"""Graphs for TensorRT run by ONNX Runtime: plugin nodes turned back into the contract's."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bidiff_deploy.engines import library
from bidiff_deploy.engines.half_graph import MAPS
from bidiff_deploy.engines.onnxruntime import session_options
from bidiff_deploy.op_definitions import functions
from bidiff_deploy.ops import DOMAIN, ONNX_OPSET

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
    names = {function.name: [value.name for value in function.inputs] for function in functions()}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.opset_import[:]
    made.opset_import.extend([helper.make_opsetid("", ONNX_OPSET - 1),
                              helper.make_opsetid(DOMAIN, 2)])
    types = value_types(model)
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "absent")
    made.graph.initializer.append(zero)
    for node in model.graph.node:
        if node.domain != DOMAIN:
            made.graph.node.append(node)
            continue
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
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


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value, told by the nodes alone; each of its inputs' rules holds."""
    found = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    found.update((tensor.name, tensor.data_type) for tensor in model.graph.initializer)
    for node in model.graph.node:
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
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


def session(model: bytes | onnx.ModelProto) -> ort.InferenceSession:
    """On the CPU, with our op library where a graph has nodes of ours."""
    options = session_options(1)
    proto = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
    if any(node.domain == DOMAIN for node in proto.graph.node):
        options.register_custom_ops_library(str(library.library_path()))
    return ort.InferenceSession(proto.SerializeToString(), options,
                                providers=["CPUExecutionProvider"])
