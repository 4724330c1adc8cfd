"""The opsets and operators that graphs for TensorRT are written in."""

from __future__ import annotations

OPSET = 17  # for every TensorRT from 8.5 on
OPSET_OF_10 = 19  # for TensorRT 10 and later
# Every parser from 8.5 on imports these as they are written here: in float32, in float16 if maps
# are their inputs, and in int64 if shapes are, which parsers before 10 narrow.
OPERATORS = frozenset((
    "Abs", "Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "DepthToSpace",
    "DequantizeLinear", "Div", "Exp", "Expand", "Gather", "LeakyRelu", "MatMul", "Min", "Mul",
    "QuantizeLinear", "ReduceMean", "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Sign",
    "Slice", "Softmax", "SpaceToDepth", "Split", "Sqrt", "Sub", "Transpose"))
# Also imported from TensorRT 10 on, without a plugin.
OPERATORS_OF_10 = OPERATORS | {"InstanceNormalization"}
