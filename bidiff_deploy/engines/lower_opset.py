"""A derived graph in the operators and the opset that every parser of TensorRT from 8.5 on takes.

Before: opset 18, as a bundle's graphs have it, their definitions opened. After: opset 17, the
operators of ``OPERATORS``, constants as initializers. What the parsers (onnx-tensorrt 8.5 to 10.1,
and its newest published source) leave no choice in:

- ``Split`` has no ``num_outputs`` and ``ReduceMean`` takes its axes as an attribute: both changed
  in opset 18, and 8.5 knows no later form.
- ``Shape`` gives the whole shape: ``start`` and ``end`` are not read before TensorRT 10.
- ``InstanceNormalization`` becomes a plugin of NVIDIA's library in 8.5, which has constant scales
  and no say in precision. Group norms are reductions and products in float32, with two passes, on
  maps of four dimensions: nothing is reshaped but vectors, so a map keeps the layout it has.
- ``PRelu`` and ``Where`` are layers of their own; sums, products, ``Min``, ``Relu`` and ``Sign``
  of neighbours become one kernel in every version.
- Additions of the constant 0 that stands for an absent map or vector go.

What depends on the number of channels alone is computed here; with a static shape all sizes are,
and no ``Shape`` is left. Needs ``onnx``, no runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import EngineError
from ..graph_shapes import STANDARD, Shape

OPSET = 17
# Of each: every parser from 8.5 on imports it in the form that is written here, in float32 and,
# where maps go through it, in float16; those of shapes in int64, which parsers before 10 narrow.
OPERATORS = frozenset((
    "Abs", "Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "DepthToSpace",
    "DequantizeLinear", "Div", "Exp", "MatMul", "Min", "Mul", "QuantizeLinear", "ReduceMean",
    "Relu", "Reshape", "Shape", "Sigmoid", "Sign", "Slice", "Softmax", "SpaceToDepth", "Split",
    "Sqrt", "Sub", "Transpose"))
_INT32_MAX = 2**31 - 1
_MAX_FOLDED = 1 << 20  # elements of a constant that is made larger than what it is made of

Ours = Callable[["Lowering", onnx.NodeProto], None]
Floats = np.dtype[np.float32] | np.dtype[np.float16]


class Lowering:
    """Nodes under way: each is appended in an order in which they can run.

    nodes      what is written
    constants  values of all constants, by name
    """

    def __init__(self, model: onnx.ModelProto, constants: Mapping[str, np.ndarray],
                 shapes: Mapping[str, Shape], batch: int | None, ours: Ours) -> None:
        """``model``: opset 18, without function bodies. ``constants``: of its external
        initializers. ``shapes``: of its values for one image, those of maps true of ``batch``
        images of a static graph; ``batch`` None: of their channels alone. ``ours``: writes what
        stands for a node of our domain."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants = dict(constants)
        for tensor in model.graph.initializer:
            if tensor.name not in self.constants:
                self.constants[tensor.name] = numpy_helper.to_array(tensor)
        self._graph, self._shapes, self._batch, self._ours = model.graph, shapes, batch, ours
        self._types: dict[str, np.dtype] = {}
        for value in model.graph.input:
            self._types[value.name] = np.dtype(
                helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        # The step's inputs: those of images have sizes that only ``shapes`` knows.
        self._vectors = {value.name: dims for value in model.graph.input if all(
            dims := tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))}
        self._reserved = {name for node in model.graph.node for name in node.output}
        self._writing: set[str] = set()
        self._same: dict[str, str] = {}
        self._made: dict[tuple, str] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._normal: set[str] = set()
        self._sized: dict[str, str] = {}  # which value of the graph another is as large as

    def run(self) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        """The nodes that the outputs need, and the constants that these read."""
        for node in self._graph.node:
            self._writing = set(node.output)
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for index, name in enumerate(copy.input):
                copy.input[index] = self.found(name)
            if copy.domain in STANDARD:
                self.standard(copy)
            else:
                self._ours(self, copy)
        for value in self._graph.output:
            self._restore(value.name)
        wanted, kept = {value.name for value in self._graph.output}, []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1], {name: self.constants[name] for name in self.constants
                            if name in wanted}

    # -- what is known ----------------------------------------------------------------------
    def found(self, name: str) -> str:
        """The value that has the place of one that is gone."""
        return self._same.get(name, name)

    def type(self, name: str) -> np.dtype:
        value = self.constants.get(name)
        return value.dtype if value is not None else self._types[name]

    def dims(self, name: str) -> Shape:
        """The shape of a value, as far as it is known; of a map, of one image."""
        if name in self.constants:
            return self.constants[name].shape
        if name in self._vectors:
            return self._vectors[name]
        while name in self._sized:
            name = self._sized[name]
        return self._shapes.get(name.removesuffix("/half"), ())  # of the output, by half_graph

    def channels(self, name: str) -> int:
        """Of a map."""
        shape = self.dims(name)
        if len(shape) != 4 or not shape[1]:
            raise EngineError(f"the number of channels of {name} can not be told; export the "
                              "bundle again")
        return shape[1]

    def absent(self, name: str) -> bool:
        """Whether an input is left out, or is the constant 0 that stands for that."""
        value = self.constants.get(name)
        return not name or value is not None and value.size == 1 and not value.any()

    # -- what is written ----------------------------------------------------------------------
    def op(self, kind: str, *inputs: str, output: str, domain: str = "", **attributes: Any) -> str:
        """Append a node of one output; returns its name: ``output``, made unique where the graph
        has that elsewhere."""
        name = self._unique(output)
        node = helper.make_node(kind, inputs, [name], domain=domain)
        node.attribute.extend(helper.make_attribute(*item) for item in sorted(attributes.items()))
        self._append(node)
        return name

    def rows(self, name: str, count: int) -> list[str]:
        """A value's parts along its first axis, which stays; the same for all that ask."""
        if ("rows", name) not in self._made:
            parts = [self._unique(f"{name}/{index}") for index in range(count)]
            self._append(helper.make_node("Split", [name], parts, axis=0))
            self._made["rows", name] = name
            self._made.update((("rows", name, index), part) for index, part in enumerate(parts))
        return [self._made["rows", name, index] for index in range(count)]

    def constant(self, value: np.ndarray, name: str) -> str:
        """The name of a constant; one for each value that there is of a ``name``."""
        value = np.asarray(value)
        key = (name, value.dtype, value.shape, value.tobytes() if value.size < 64 else id(value))
        if key not in self._made:
            self._made[key] = self._unique(name)
            self.constants[self._made[key]] = value
        return self._made[key]

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64), f"sizes_{'_'.join(map(str, values))}")

    def scalar(self, value: float, dtype: np.dtype | type) -> str:
        """A number for all of a map. Of the map's rank: a shuffle between would part kernels."""
        return self.constant(np.full((1, 1, 1, 1), value, dtype), f"{value:g}")

    def cast(self, name: str, dtype: np.dtype | type) -> str:
        """A value in another type; the same node for all that ask."""
        dtype = np.dtype(dtype)
        if self.type(name) == dtype:
            return name
        label = f"{name}/{'half' if dtype == np.float16 else 'float'}"
        if name in self.constants:
            return self._once(("cast", name, dtype), lambda: self.constant(
                self.constants[name].astype(dtype), label))
        return self._once(("cast", name, dtype), lambda: self.op(
            "Cast", name, output=label, to=helper.np_dtype_to_tensor_dtype(dtype)))

    def reshape(self, name: str, *shape: int) -> str:
        """A value in another shape (0: as it was, -1: the rest); the same for all that ask."""
        if name in self.constants:
            value = _reshaped(self.constants[name], shape)
            return self._once(("reshape", name, shape),
                              lambda: self.constant(value, f"{name}/{len(shape)}d"))
        return self._once(("reshape", name, shape), lambda: self.op(
            "Reshape", name, self.integers(*shape), output=f"{name}/{len(shape)}d"))

    def column(self, name: str) -> str:
        """A vector (C) as a map's factor or term, (1, C, 1, 1)."""
        return self.reshape(name, 1, -1, 1, 1)

    def normalise(self, x: str, groups: int, numerator: str, epsilon: float,
                  output: str) -> str:
        """(x - mean) * numerator / sqrt(variance + epsilon) of groups of channels.

        ``x``: a float32 map, ``numerator``: float32 (1, groups, C / groups).
        """
        channels = self.channels(x)
        each = self.constant(np.ones((1, 1, channels // groups), np.float32), "ones")

        def mean(of: str, label: str) -> str:
            """Over a group, (N, groups, 1)."""
            inner = self.op("ReduceMean", of, output=f"{output}/{label}_channel", axes=[2, 3],
                            keepdims=1)
            inner = self.reshape(inner, 0, groups, -1)
            return self.op("ReduceMean", inner, output=f"{output}/{label}", axes=[2], keepdims=1)

        center = self.op("Mul", mean(x, "mean"), each, output=f"{output}/center")
        moved = self.op("Sub", x, self.reshape(center, 0, channels, 1, 1),
                        output=f"{output}/moved")
        square = self.op("Mul", moved, moved, output=f"{output}/square")
        added = self.op("Add", mean(square, "variance"),
                        self.constant(np.full((1, 1, 1), epsilon, np.float32), "epsilon"),
                        output=f"{output}/sum")
        deviation = self.op("Sqrt", added, output=f"{output}/deviation")
        factor = self.op("Div", numerator, deviation, output=f"{output}/factor")
        return self.op("Mul", moved, self.reshape(factor, 0, channels, 1, 1), output=output)

    def rectify(self, x: str, slope: str, output: str) -> str:
        """x, times ``slope`` where it is below 0."""
        zero = self.scalar(0, self.type(x))
        below = self.op("Min", x, zero, output=f"{output}/below")
        below = self.op("Mul", below, slope, output=f"{output}/sloped")
        return self.op("Add", self.op("Relu", x, output=f"{output}/above"), below, output=output)

    def as_large_as(self, name: str, other: str) -> None:
        """Say that a value that was written has the shape of one of the graph."""
        self._sized[name] = other

    def finish(self, value: str, name: str) -> None:
        """Give a value that nothing has read yet its name in the graph."""
        node = self._producers.pop(value)
        self._types[name] = self._types.pop(value)
        node.name = node.output[0] = name
        self._producers[name] = node

    # -- standard operators -------------------------------------------------------------------
    def standard(self, node: onnx.NodeProto) -> None:
        """Write what stands for a node of opset 18, whose inputs are there; ``found`` of its
        outputs says where they are. Raises EngineError for what TensorRT does not take."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs, output = list(node.input), node.output[0] if node.output else ""
        special = getattr(self, f"_{node.op_type.lower()}", None)
        if node.op_type == "Constant":
            self.constants[output] = _constant(node)
        elif inputs and all(name in self.constants for name in inputs if name) and (
                folded := _folded(node.op_type, [self.constants[name] for name in inputs],
                                  attributes)) is not None:
            self.constants[output] = folded
        elif special is not None:
            special(inputs, output, attributes, node)
        else:
            self._append(node)

    def _cast(self, inputs: list[str], output: str, attributes: dict, node: onnx.NodeProto
              ) -> None:
        key = ("cast", inputs[0], np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"])))
        if key in self._made:
            self._same[output] = self._made[key]
        else:
            self._append(node)
            self._made[key] = output

    def _identity(self, inputs: list[str], output: str, *_: Any) -> None:
        self._same[output] = inputs[0]

    def _add(self, inputs: list[str], output: str, _: Any, node: onnx.NodeProto) -> None:
        rest = [name for name in inputs if not self.absent(name)]
        if len(rest) == 1:
            self._same[output] = rest[0]
        else:
            self._append(node)

    def _split(self, inputs: list[str], output: str, attributes: dict, node: onnx.NodeProto
               ) -> None:
        for attribute in [a for a in node.attribute if a.name == "num_outputs"]:
            node.attribute.remove(attribute)
        self._append(node)

    def _slice(self, inputs: list[str], output: str, attributes: dict, node: onnx.NodeProto
               ) -> None:
        ends = self.constants.get(inputs[2])
        if ends is not None and ends.max(initial=0) > _INT32_MAX:
            node.input[2] = self.integers(*(min(int(end), _INT32_MAX) for end in ends))
        self._append(node)

    def _reducemean(self, inputs: list[str], output: str, attributes: dict,
                    node: onnx.NodeProto) -> None:
        axes = attributes.get("axes")
        if axes is None and len(inputs) > 1 and inputs[1] in self.constants:
            axes = self.constants[inputs[1]].tolist()
        if not axes:
            raise EngineError(f"{node.op_type} {output} has no constant axes; export the bundle "
                              "again")
        self.op("ReduceMean", inputs[0], output=output, axes=axes,
                keepdims=attributes.get("keepdims", 1))

    def _prelu(self, inputs: list[str], output: str, *_: Any) -> None:
        self.rectify(inputs[0], inputs[1], output)

    def _shape(self, inputs: list[str], output: str, attributes: dict, _: Any) -> None:
        start, end = attributes.get("start", 0), attributes.get("end")
        name, shape = inputs[0], self.dims(inputs[0])
        fixed = name in self.constants or name in self._vectors
        if shape and None not in shape and (fixed or self._batch is not None):
            # Whatever is computed from images has the batch in front.
            whole = shape if fixed else (self._batch, *shape[1:])
            self.constants[output] = np.array(whole[start:end], np.int64)
        elif start == 0 and end is None:
            self.op("Shape", inputs[0], output=output)
        else:
            whole = self.op("Shape", inputs[0], output=f"{output}/whole")
            self.op("Slice", whole, self.integers(start),
                    self.integers(_INT32_MAX if end is None else end), self.integers(0),
                    output=output)

    def _instancenormalization(self, inputs: list[str], output: str, attributes: dict,
                               _: Any) -> None:
        """Of a map that was reshaped to (N, groups, -1), with a scale of 1 and no bias."""
        producer = self._producers.get(inputs[0])
        if producer is not None and producer.op_type == "Cast":
            producer = self._producers.get(producer.input[0])
        shape = None
        if producer is not None and producer.op_type == "Reshape":
            shape = self.constants.get(producer.input[1])
        scale, bias = (self.constants.get(name) for name in inputs[1:])
        if (shape is None or len(shape) != 3 or (shape[0], shape[2]) != (0, -1) or scale is None
                or bias is None or np.any(scale != 1) or np.any(bias)):
            raise EngineError(f"the normalisation {output} is not that of a group norm; export "
                              "the bundle again")
        x, groups = self.cast(producer.input[0], np.float32), int(shape[1])
        ones = np.ones((1, groups, self.channels(x) // groups), np.float32)
        self.normalise(x, groups, self.constant(ones, "ones"), attributes.get("epsilon", 1e-5),
                       output)
        self._normal.add(output)

    def _reshape(self, inputs: list[str], output: str, _: Any, node: onnx.NodeProto) -> None:
        if inputs[0] in self._normal:  # to the map's own shape, which it has
            self._same[output] = inputs[0]
        else:
            self._append(node)

    # -- bookkeeping --------------------------------------------------------------------------
    def _append(self, node: onnx.NodeProto) -> None:
        if node.domain in STANDARD and node.op_type not in OPERATORS:
            raise EngineError(f"the bundle's graph has the operator {node.op_type}, which is none "
                              "that every TensorRT takes; export the bundle again")
        cast = next((a.i for a in node.attribute if a.name == "to"), None)
        if node.op_type == "Cast":
            self._sized[node.output[0]] = node.input[0]
        if node.op_type == "Shape":
            given = np.dtype(np.int64)
        elif node.op_type == "QuantizeLinear":
            given = np.dtype(np.int8)
        elif node.op_type == "DequantizeLinear":
            given = self.type(node.input[1])
        else:
            given = (self.type(node.input[0]) if cast is None
                     else np.dtype(helper.tensor_dtype_to_np_dtype(cast)))
        self._types.update(dict.fromkeys(node.output, given))
        self._producers.update(dict.fromkeys(node.output, node))
        node.name = node.output[0]  # of the layer, in TensorRT's messages and profiles
        self.nodes.append(node)

    def _unique(self, name: str) -> str:
        found, count = name, 1
        while found not in self._writing and (
                found in self._reserved or found in self._types or found in self.constants):
            count += 1
            found = f"{name}/{count}"
        return found

    def _once(self, key: tuple, make: Callable[[], str]) -> str:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _restore(self, name: str) -> None:
        """An output of the graph under its own name, where the node that gave it is gone."""
        if name not in self._same:
            return
        value = self._same[name]
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, found in enumerate(names):
                    if found == value:
                        names[index] = name


def _constant(node: onnx.NodeProto) -> np.ndarray:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    kinds: dict[str, type] = {"value_int": np.int64, "value_ints": np.int64,
                              "value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in kinds:
        raise EngineError(f"the constant {node.output[0]} is of a kind that no step graph has; "
                          "export the bundle again")
    return np.array(value, kinds[attribute.name])


def _reshaped(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return value.reshape([value.shape[index] if size == 0 else size
                          for index, size in enumerate(shape)])


def _folded(kind: str, values: list[np.ndarray], attributes: Mapping[str, Any]
            ) -> np.ndarray | None:
    """What a node makes of constants; None where it is left to TensorRT."""
    if kind == "Unsqueeze":
        return np.expand_dims(values[0], tuple(values[1].tolist()))
    if kind == "Concat":
        return np.concatenate(values, attributes["axis"])
    if kind == "Reshape":
        return _reshaped(values[0], tuple(values[1].tolist()))
    if kind == "Cast":
        return values[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
    if kind == "Sqrt":
        return np.sqrt(values[0])
    if kind == "Expand":
        shape = np.broadcast_shapes(values[0].shape, tuple(values[1].tolist()))
        return np.broadcast_to(values[0], shape) if math.prod(shape) <= _MAX_FOLDED else None
    return None
