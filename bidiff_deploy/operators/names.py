"""Names and versions of our operators.

``layer_functions`` and ``block_functions`` define them.
"""

from __future__ import annotations

DOMAIN = "bidiff"
VERSION = 2
ONNX_OPSET = 18  # the first with BitwiseAnd; onnxruntime runs it since 1.14
BINARY_CONV = "BinaryConv"
GROUP_NORM_SWISH = "GroupNormSwish"
SCALED_BINARY_CONV = "ScaledBinaryConv"
CONV3X3 = "Conv3x3"
WINOGRAD_CONV = "WinogradConv"
WINOGRAD_TILE = 4  # pixels on a side that it computes at once
PAIR_CONV = "PairConv"
NORM_CONV = "NormConv"
NORM_BINARY_CONV = "NormBinaryConv"
BINARY_FUSION = "BinaryFusion"
BINARY_DOWN = "BinaryDown"
BINARY_UP = "BinaryUp"
ATTENTION = "Attention"
SELECTIVE_SCAN = "SelectiveScan"
SCAN_PRODUCTS = 3  # of a pixel, a channel and a state: step x b, the state's decay, c h
# Operators that are made of BinaryConv, GroupNormSwish and standard ones.
FUSED = (CONV3X3, WINOGRAD_CONV, PAIR_CONV, NORM_CONV, NORM_BINARY_CONV, BINARY_FUSION,
         BINARY_DOWN, BINARY_UP, ATTENTION)
PLUGIN_VERSION = "1"  # of BinaryConv, for runtimes that look plugins up by namespace and version
# Values of the attribute `compute` of operators with float products.
COMPUTE = ("float32", "bfloat16", "float16")
INT8 = "int8"  # further precision of a bundle: some layers between QuantizeLinear nodes
EPSILON = 1e-5  # of GroupNorm, torch's default
