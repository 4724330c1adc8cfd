"""Names and versions of the custom operators of a step graph, and a writer of their definitions.

The definitions are in ``op_layers`` (operators that are one layer) and ``op_blocks`` (those
that fuse several). The prose contract is ``export/op_contract.md``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

DOMAIN = "bidiff"
VERSION = 2
# 18 is the first opset with BitwiseAnd, and onnxruntime has run it since 1.14.
ONNX_OPSET = 18
BINARY_CONV = "BinaryConv"
GROUP_NORM_SWISH = "GroupNormSwish"
CONV3X3 = "Conv3x3"
PAIR_CONV = "PairConv"
NORM_CONV = "NormConv"
NORM_BINARY_CONV = "NormBinaryConv"
BINARY_FUSION = "BinaryFusion"
BINARY_DOWN = "BinaryDown"
BINARY_UP = "BinaryUp"
ATTENTION = "Attention"
# Operators that are made of BinaryConv, GroupNormSwish and standard ones.
FUSED = (CONV3X3, PAIR_CONV, NORM_CONV, NORM_BINARY_CONV, BINARY_FUSION, BINARY_DOWN, BINARY_UP,
         ATTENTION)
PLUGIN_VERSION = "1"  # of BinaryConv, for runtimes that look plugins up by namespace and version
# The attribute `compute` of operators with float products.
COMPUTE = ("float32", "bfloat16", "float16")
EPSILON = 1e-5  # of GroupNorm, torch's default


class Body:
    """A small writer of nodes: ``op(...)`` appends one and returns its output."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value | None, name: str | None = None,
           domain: str = "", label: str | None = None, **attributes: object) -> ir.Value:
        """Append a node. ``name`` names its output, ``label`` the node; None leaves it to the
        graph's naming. Attributes are Python values or ``ir.Attr`` references."""
        attrs = [value if isinstance(value, ir.Attr)
                 else ir.convenience.convert_attribute(key, value)
                 for key, value in attributes.items()]
        node = ir.Node(domain, op_type, list(inputs), attrs, num_outputs=1, name=label)
        if name is not None:
            node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def split(self, x: ir.Value, axis: int, *names: str) -> tuple[ir.Value, ...]:
        """Equal parts of x along an axis, one for each name."""
        attrs = [ir.AttrInt64("axis", axis), ir.AttrInt64("num_outputs", len(names))]
        node = ir.Node("", "Split", [x], attrs, num_outputs=len(names))
        for output, name in zip(node.outputs, names):
            output.name = name
        self.nodes.append(node)
        return tuple(node.outputs)

    def per_channel(self, value: ir.Value, name: str) -> ir.Value:
        """A vector (C) as a map (1, C, 1, 1)."""
        shape = self.constant(np.array([1, -1, 1, 1], np.int64), f"{name}_shape")
        return self.op("Reshape", value, shape, name=name)

    def constant(self, value: np.ndarray, name: str) -> ir.Value:
        return self.op("Constant", value=ir.tensor(np.asarray(value), name=name), name=name)

    def function(self, name: str, inputs: list[ir.Value], output: ir.Value,
                 attributes: tuple[ir.Attr, ...] = (), ours: bool = False) -> ir.Function:
        """The nodes as a function; ``ours``: they use operators of this domain."""
        imports = {"": ONNX_OPSET, DOMAIN: VERSION} if ours else {"": ONNX_OPSET}
        graph = ir.Graph(inputs, [output], nodes=self.nodes, opset_imports=imports)
        return ir.Function(DOMAIN, name, graph=graph, attributes=attributes)


def integer_reference(name: str, attribute: str) -> ir.Attr:
    """Attribute ``name`` of an inner node as the function's own ``attribute``."""
    return ir.RefAttr(name, attribute, ir.AttributeType.INT)
