"""Writes nodes of the operators that every parser of TensorRT from 8.5 on reads.

A writer knows the type of each value, the value of each constant and the channels of each map, so
the modules that lower an operator (``lower_opset``, ``dense``, ``plugin_nodes``) only state what is
computed: a cast or reshape of a value is written once, that of a constant never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ..errors import EngineError
from ..operators.shapes import STANDARD, Shape
from .opset import OPERATORS, OPERATORS_OF_10, OPSET

Array = npt.NDArray[Any]


class GraphWriter:
    """Appends nodes in an order in which they can run.

    nodes      the nodes written so far
    constants  values of all constants, by name
    vectors    shapes of the inputs that are not images, by name
    writing    outputs of the node of ``model`` that is being replaced
    producers  the node that writes each value
    opset      of the nodes, 17 or 19
    operators  standard operators that may be written
    """

    operators = OPERATORS

    def __init__(self, model: onnx.ModelProto, constants: Mapping[str, Array],
                 shapes: Mapping[str, Shape], batch: int | None, opset: int) -> None:
        """``model``: the graph that is replaced. ``constants``: values of its external
        initializers. ``shapes``: of its values, for one image. ``batch``: the number of images of
        a static graph; None: only the channels in ``shapes`` are relied on."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants = dict(constants)
        self.opset = opset
        if opset > OPSET:
            self.operators = self.operators | OPERATORS_OF_10
        for tensor in model.graph.initializer:
            if tensor.name not in self.constants:
                self.constants[tensor.name] = numpy_helper.to_array(tensor)
        self._shapes, self._batch = shapes, batch
        self._types = {value.name: np.dtype(helper.tensor_dtype_to_np_dtype(
            value.type.tensor_type.elem_type)) for value in model.graph.input}
        # An image has free dimensions, and its sizes are in ``shapes`` alone.
        self.vectors = {value.name: dims for value in model.graph.input if all(
            dims := tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim))}
        self._reserved = {name for node in model.graph.node for name in node.output}
        self.writing: set[str] = set()
        self.producers: dict[str, onnx.NodeProto] = {}
        self._made: dict[tuple[Any, ...], str] = {}
        self._sized: dict[str, str] = {}  # a value of the replaced graph with the same shape

    # -- what is known ------------------------------------------------------------------------
    def dtype_of(self, name: str) -> np.dtype[Any]:
        """The element type of a value."""
        value = self.constants.get(name)
        return value.dtype if value is not None else self._types[name]

    def dims(self, name: str) -> Shape:
        """The shape of a value; a map's is that of one image, and () if it is unknown."""
        if name in self.constants:
            return self.constants[name].shape
        if name in self.vectors:
            return self.vectors[name]
        while name in self._sized:
            name = self._sized[name]
        return self._shapes.get(name.removesuffix("/half"), ())  # pass float16 renames the output

    def channels(self, name: str) -> int:
        """The number of channels of a map. Raises EngineError if it is unknown."""
        shape = self.dims(name)
        if len(shape) != 4 or not shape[1]:
            raise EngineError(f"the number of channels of {name} is unknown; export the bundle "
                              "again")
        return shape[1]

    def image_size(self, name: str) -> tuple[int, int] | None:
        """Height and width of a map; None if they are free."""
        height, width = self.dims(name)[2:]
        return None if self._batch is None or height is None or width is None else (height, width)

    def narrow(self, name: str) -> str:
        """The float16 value that ``name`` is in float32, else ``name``."""
        found = self.uncast(name)
        return found if self.dtype_of(found) == np.float16 else name

    def uncast(self, name: str) -> str:
        """The value that ``name`` is a cast of, else ``name``."""
        producer = self.producers.get(name)
        return producer.input[0] if producer is not None and producer.op_type == "Cast" else name

    def absent(self, name: str) -> bool:
        """Whether an input is left out, or is the constant 0, which means the same."""
        value = self.constants.get(name)
        return not name or value is not None and value.size == 1 and not value.any()

    # -- what is written ----------------------------------------------------------------------
    def op(self, kind: str, *inputs: str, output: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output; returns the output's name: ``output``, with a number if
        another value has that name."""
        name = self._unique(output)
        node = helper.make_node(kind, inputs, [name], domain=domain)
        node.attribute.extend(helper.make_attribute(*item) for item in sorted(attributes.items()))
        self.append(node)
        return name

    def columns(self, name: str, count: int) -> list[str]:
        """The rows of a table (count, C) as factors or terms of a map, (1, C, 1, 1) each; written
        once. Rows that are separate inputs are called ``name/0`` and so on."""
        if f"{name}/0" in self.vectors:
            return [self.column(f"{name}/{index}") for index in range(count)]
        if name in self.constants:
            rows = self.constants[name].reshape(count, 1, -1, 1, 1)
            for index, row in enumerate(rows):
                if ("row", name, index) not in self._made:
                    self._made["row", name, index] = self.constant(row, f"{name}/{index}")
        elif ("row", name, 0) not in self._made:
            parts = [self._unique(f"{name}/{index}") for index in range(count)]
            maps = self.reshape(name, count, -1, 1, 1)
            self.split(helper.make_node("Split", [maps], parts, axis=0))
            self._made.update((("row", name, index), part) for index, part in enumerate(parts))
        return [self._made["row", name, index] for index in range(count)]

    def constant(self, value: Array, name: str) -> str:
        """The name of a constant: ``name``, with a number if another value has that name."""
        value = np.asarray(value)
        key = (name, value.dtype, value.shape, value.tobytes() if value.size < 64 else id(value))
        if key not in self._made:
            self._made[key] = self._unique(name)
            self.constants[self._made[key]] = value
        return self._made[key]

    def integers(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64), f"sizes_{'_'.join(map(str, values))}")

    def scalar(self, value: float, dtype: npt.DTypeLike) -> str:
        """A number, (1, 1, 1, 1): with the rank of a map no shuffle separates kernels."""
        return self.constant(np.full((1, 1, 1, 1), value, dtype), f"{value:g}")

    def cast(self, name: str, dtype: npt.DTypeLike) -> str:
        """A value in another type; written once."""
        dtype = np.dtype(dtype)
        if self.dtype_of(name) == dtype:
            return name
        label = f"{name}/{'half' if dtype == np.float16 else 'float'}"
        if name in self.constants:
            return self._once(("cast", name, dtype), lambda: self.constant(
                self.constants[name].astype(dtype), label))
        return self._once(("cast", name, dtype), lambda: self.op(
            "Cast", name, output=label, to=helper.np_dtype_to_tensor_dtype(dtype)))

    def reshape(self, name: str, *shape: int) -> str:
        """A value in another shape (0: unchanged, -1: the rest); written once."""
        dims = self.vectors.get(name, ())
        if len(dims) == len(shape) and all(size in (-1, dim) for size, dim in zip(shape, dims)):
            return name
        if name in self.constants:
            value = reshaped(self.constants[name], shape)
            return self._once(("reshape", name, shape),
                              lambda: self.constant(value, f"{name}/{len(shape)}d"))
        return self._once(("reshape", name, shape), lambda: self.op(
            "Reshape", name, self.integers(*shape), output=f"{name}/{len(shape)}d"))

    def turned(self, name: str) -> str:
        """Matrices (N, R, C) transposed; written once."""
        return self._once(("turned", name), lambda: self.op(
            "Transpose", name, output=f"{name}/turned", perm=[0, 2, 1]))

    def was_turned(self, name: str, turned: str) -> bool:
        """Whether ``turned`` is what the method of that name returned for ``name``."""
        return self._made.get(("turned", name)) == turned

    def column(self, name: str) -> str:
        """A vector (C) as a factor or term of a map, (1, C, 1, 1)."""
        return self.reshape(name, 1, -1, 1, 1)

    def split(self, node: onnx.NodeProto) -> None:
        """Append a Split in the form of the opset; without sizes its parts are equal."""
        for attribute in [a for a in node.attribute if a.name == "num_outputs"]:
            node.attribute.remove(attribute)
        if self.opset > OPSET and len(node.input) == 1:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
        self.append(node)

    def mean(self, x: str, axes: Sequence[int], output: str, keepdims: int = 1) -> str:
        """A ReduceMean in the form of the opset."""
        if self.opset > OPSET:
            return self.op("ReduceMean", x, self.integers(*axes), output=output, keepdims=keepdims)
        return self.op("ReduceMean", x, output=output, axes=list(axes), keepdims=keepdims)

    def signs(self, x: str, threshold: str, name: str) -> str:
        """The signs of x + ``threshold``, +1 at both zeros, in the type of the map ``x``."""
        given, dtype = self.constants.get(threshold), self.dtype_of(x)
        if not self.absent(threshold) and (given is None or given.any()):
            x = self.op("Add", x, self.cast(self.column(threshold), dtype),
                        output=f"{name}/shifted")
        y = self.op("Sign", x, output=f"{name}/sign_or_0")
        y = self.op("Add", y, self.scalar(0.5, dtype), output=f"{name}/not_0")
        return self.op("Sign", y, output=f"{name}/signs")

    def rectify(self, x: str, slope: str, output: str) -> str:
        """x where it is positive, x times ``slope`` elsewhere."""
        zero = self.scalar(0, self.dtype_of(x))
        below = self.op("Min", x, zero, output=f"{output}/below")
        below = self.op("Mul", below, slope, output=f"{output}/sloped")
        return self.op("Add", self.op("Relu", x, output=f"{output}/above"), below, output=output)

    def as_large_as(self, name: str, other: str) -> None:
        """Record that a written value has the shape of a value of the replaced graph."""
        self._sized[name] = other

    def finish(self, value: str, name: str) -> None:
        """Rename a value that no node reads yet."""
        node = self.producers.pop(value)
        self._types[name] = self._types.pop(value)
        node.name = node.output[0] = name
        self.producers[name] = node

    # -- bookkeeping --------------------------------------------------------------------------
    def append(self, node: onnx.NodeProto) -> None:
        """Append a node. Raises EngineError for an operator that some TensorRT does not read."""
        if node.domain in STANDARD and node.op_type not in self.operators:
            raise EngineError(f"the bundle's graph has the operator {node.op_type}, which not "
                              "every TensorRT supports; export the bundle again")
        cast = next((a.i for a in node.attribute if a.name == "to"), None)
        if node.op_type == "Cast":
            self._sized[node.output[0]] = node.input[0]
        dtype: np.dtype[Any]
        if node.op_type == "Shape":
            dtype = np.dtype(np.int64)
        elif node.op_type == "QuantizeLinear":
            dtype = np.dtype(np.int8)
        elif node.op_type == "DequantizeLinear":
            dtype = self.dtype_of(node.input[1])
        elif cast is not None:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(cast))
        else:
            dtype = self.dtype_of(node.input[0])
        self._types.update(dict.fromkeys(node.output, dtype))
        self.producers.update(dict.fromkeys(node.output, node))
        node.name = node.output[0]  # the layer's name in TensorRT's messages and profiles
        self.nodes.append(node)

    def _unique(self, name: str) -> str:
        found, count = name, 1
        while found not in self.writing and (
                found in self._reserved or found in self._types or found in self.constants):
            count += 1
            found = f"{name}/{count}"
        return found

    def _once(self, key: tuple[Any, ...], make: Callable[[], str]) -> str:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def reshaped(value: Array, shape: tuple[int, ...]) -> Array:
    """The value as ONNX's Reshape returns it: size 0 is unchanged, -1 the rest."""
    return value.reshape([value.shape[index] if size == 0 else size
                          for index, size in enumerate(shape)])
