"""A network in standard ONNX operators alone: no functions, no domain of ours, all weights inside.

It is the lowering for TensorRT without our plugin (``graphs.dense``), except that

- comparisons, PRelu and InstanceNormalization, which every runtime has, replace what the oldest
  TensorRT needs and take more passes over a map;
- binary weights are +1 and -1, stored as bits in int32, which Div and Mod decode when a runtime
  folds constants (TensorRT for RTX has neither BitShift nor BitwiseAnd). A word has 31 bits, so it
  is never negative and the rounding of Div does not matter;
- attention is computed in blocks of positions, because there are no tiles.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ..graphs.dense import Dense
from ..graphs.float16 import half as with_half_maps
from ..graphs.graph_writer import Array
from ..graphs.inline import inline_at
from ..graphs.lower_opset import Lowering
from ..graphs.opset import OPERATORS
from ..graphs.record import ParameterizedGraph

__all__ = ["standard_network"]

_BITS = 31
_BLOCKS = 32  # that attention is computed in; its memory is the square of the positions by this


def standard_network(model: onnx.ModelProto, side: int, *, half: bool,
                     plain: bool) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """The nodes of ``model``, the graph of ``Network.build_graph``, in opset 17, and their
    constants. Inputs and outputs keep their names, and stay float32.

    ``side``: height and width that the network can run at. ``half``: maps are float16. ``plain``:
    binary weights are stored as floats. Raises EngineError for weights beyond the range of float16.
    """
    graph = inline_at(ParameterizedGraph(model), side, side)
    if half:
        narrow, constants = with_half_maps(graph.model, graph.constants, graph.float32)
        graph = dataclasses.replace(graph, model=narrow, constants=constants)
    ours = Dense(int8=False) if plain else _Packed(int8=False)
    return _Writer(graph.model, graph.constants, graph.shapes, None, ours).run()


class _Writer(Lowering):
    """Writes layers as any runtime has them, and not only as the oldest TensorRT does."""

    operators = OPERATORS | {"ArgMax", "Erf", "Gather", "GreaterOrEqual", "InstanceNormalization",
                             "LeakyRelu", "Mod", "PRelu", "Range", "Resize", "Unsqueeze", "Where"}

    def standard(self, node: onnx.NodeProto) -> None:
        """As ``Lowering.standard``; a product with softmax weights is written in blocks of rows,
        and nothing reads the nodes that computed all weights."""
        softmax = self._source(node.input[1], "Softmax") if node.op_type == "MatMul" else None
        if softmax is None:
            super().standard(node)
        else:
            self._attention(softmax, node.input[0], node.output[0])

    def _source(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The node of operator ``kind`` whose output, cast or transposed, is ``name``."""
        node = self.producers.get(name)
        while node is not None and node.op_type in ("Cast", "Transpose"):
            node = self.producers.get(node.input[0])
        return node if node is not None and node.op_type == kind else None

    def _attention(self, softmax: onnx.NodeProto, v: str, output: str) -> None:
        """Writes v * softmax(q^T k)^T, (N, C, positions), with the weights of ``_BLOCKS`` blocks of
        positions one after the other: all weights of an image of 1 Mpixel are 17 GB."""
        scores = self._source(softmax.input[0], "MatMul")
        assert scores is not None, "softmax of a product"
        q, k = scores.input  # (N, positions, C), (N, C, positions)

        def op(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
            return self.op(kind, *inputs, output=f"{output}/{name}", **attributes)

        def number(value: int) -> str:
            return self.constant(np.array(value, np.int64), f"number_{value}")

        # Positions beyond the last repeat it, so that all blocks are equal and none is empty.
        size = op("Gather", op("Shape", q, name="shape"), number(1), name="positions", axis=0)
        rows = op("Div", op("Add", size, number(_BLOCKS - 1), name="at_least"), number(_BLOCKS),
                  name="rows")
        index = op("Range", number(0), op("Mul", rows, number(_BLOCKS), name="padded"), number(1),
                   name="index")
        index = op("Min", index, op("Sub", size, number(1), name="last"), name="clamped")
        index = op("Reshape", index, self.integers(_BLOCKS, -1), name="blocks")
        blocks = [f"{output}/q{block}" for block in range(_BLOCKS)]
        self.split(helper.make_node(
            "Split", [op("Gather", q, index, name="q", axis=1)], blocks, axis=1))
        one = self.integers(1)
        k = op("Unsqueeze", k, one, name="k")
        turned = op("Transpose", v, name="v", perm=[0, 2, 1])
        turned = op("Unsqueeze", turned, one, name="v_turned")
        parts = []
        for block, q in enumerate(blocks):
            weights = self.cast(op("MatMul", q, k, name=f"scores{block}"), np.float32)
            weights = op("Softmax", weights, name=f"weights{block}", axis=-1)
            weights = self.cast(weights, self.dtype_of(v))
            parts.append(op("MatMul", weights, turned, name=f"mixed{block}"))
        mixed = op("Concat", *parts, name="all", axis=1)  # (N, blocks, rows, C)
        mixed = op("Transpose", mixed, name="turned", perm=[0, 3, 1, 2])
        mixed = op("Reshape", mixed, self.integers(0, 0, -1), name="flat")
        end = op("Unsqueeze", size, self.integers(0), name="end")
        self.op("Slice", mixed, self.integers(0), end, self.integers(2), output=output)

    def normalise(self, x: str, groups: int, factor: str, epsilon: float, output: str,
                  bias: str = "") -> str:
        x = self.cast(x, np.float32)
        one, zero = (self.constant(np.full(groups, value, np.float32), f"{label}/{groups}")
                     for value, label in ((1, "ones"), (0, "zeros")))
        grouped = self.op("Reshape", x, self.integers(0, groups, -1), output=f"{output}/grouped")
        normal = self.op("InstanceNormalization", grouped, one, zero, output=f"{output}/each",
                         epsilon=epsilon)
        shape = self.op("Shape", x, output=f"{output}/shape")
        normal = self.op("Reshape", normal, shape, output=f"{output}/map")
        n = self.op("Mul", normal, self.column(self.reshape(factor, -1)), output=output)
        return self.op("Add", n, bias, output=f"{output}/n") if bias else n

    def rectify(self, x: str, slope: str, output: str) -> str:
        return self.op("PRelu", x, slope, output=output)

    def signs(self, x: str, threshold: str, name: str) -> str:
        """x + t >= 0 is x >= -t: the sum of two floats has the sign of the exact sum."""
        t = np.zeros(1, np.float32) if self.absent(threshold) else self.constants[threshold]
        limit = self.constant(-t.reshape(1, -1, 1, 1), f"{name}/limit")
        positive = self.op("GreaterOrEqual", x, limit, output=f"{name}/positive")
        return self.op("Where", positive, self.scalar(1, np.float32), self.scalar(-1, np.float32),
                       output=f"{name}/signs")


class _Packed(Dense):
    """As ``Dense``, but the convolution's weights are +1 and -1, decoded from bits."""

    def _convolution(self, graph: Lowering, name: str, signs: str, weight: Array,
                     maps: npt.DTypeLike) -> str:
        k = weight.shape[-1]
        taps = self._decoded(graph, name, ~np.signbit(weight), maps)
        sums = graph.op("Conv", graph.cast(signs, maps), taps, output=f"{name}/sums",
                        kernel_shape=[k, k], pads=[k // 2] * 4)
        alpha = graph.constant(np.abs(weight).max(axis=(1, 2, 3)), f"{name}/alpha")
        return graph.op("Mul", graph.cast(sums, np.float32), graph.column(alpha),
                        output=f"{name}/scaled")

    def _decoded(self, graph: Lowering, name: str, bits: npt.NDArray[np.bool_],
                 maps: npt.DTypeLike) -> str:
        """Writes +1 for each set bit and -1 for the others, in the type ``maps``."""
        powers = np.int32(1) << np.arange(_BITS, dtype=np.int32)
        padded = np.zeros((-(-bits.size // _BITS), _BITS), np.int32)
        padded.reshape(-1)[:bits.size] = bits.reshape(-1)
        words = graph.constant((padded * powers).sum(axis=1, dtype=np.int32, keepdims=True),
                               f"{name}/words")
        # Integers up to the cast: constants are folded on CPUs, which may not compute in float16.
        one, two = (graph.constant(np.full(1, value, np.int32), f"int_{value}") for value in (1, 2))
        taps = graph.op("Div", words, graph.constant(powers, "powers"), output=f"{name}/shifted")
        taps = graph.op("Mod", taps, two, output=f"{name}/bits")
        taps = graph.op("Mul", taps, two, output=f"{name}/0_or_2")
        taps = graph.op("Sub", taps, one, output=f"{name}/taps")
        taps = graph.op("Slice", graph.reshape(taps, -1), graph.integers(0),
                        graph.integers(bits.size), graph.integers(0), output=f"{name}/all")
        return graph.cast(graph.reshape(taps, *bits.shape), maps)
