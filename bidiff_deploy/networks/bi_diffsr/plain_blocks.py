"""Blocks whose binary layers are BinaryConv between standard operators.

The fused binary operators contain the published binarizer. Other binarizers use BinaryConv for sum,
scale and shortcut, and standard ONNX operators for the rest. The output of a layer's BinaryConv has
the layer's name ("e3.c1"); names of the other values begin with it ("e3.c1/scaled").
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ...operators.block_functions import pixel_unshuffle
from ...operators.names import BINARY_CONV, DOMAIN, GROUP_NORM_SWISH, PLUGIN_VERSION
from ...operators.value_names import short
from .architecture import Block
from .graph_builder import BlockWriters, Builder, residual


def _half(b: Builder, block: Block, index: int, output: str, x: str, time: str, skip: str) -> str:
    h = b.write.op(GROUP_NORM_SWISH, x, *b.norm(f"{block.name}.norm{index}"), domain=DOMAIN,
                   groups=b.config.norm_groups, name=f"{short(block.name)}/n{index}")
    y = _layer(b, h, f"{block.name}.conv{index}")
    added = b.write.per_channel(time, f"{output}/time") if index == 1 else skip
    return b.write.op("Add", y, added, name=output)


def _fusion(b: Builder, block: Block, x: str, skip: str) -> str:
    name, parts = short(block.name), []
    for index in (1, 2):
        pieces = [_every_other(b, value, start, f"{name}/{label}{index}")
                  for value, start, label in ((x, 2 - index, "x"), (skip, index - 1, "skip"))]
        mixed = b.write.op("Concat", *pieces, axis=1, name=f"{name}/mixed{index}")
        parts.append(_layer(b, mixed, f"{block.name}.conv{index}"))
    return b.write.op("Add", *parts, name=name)


def _down(b: Builder, block: Block, x: str) -> str:
    name = short(block.name)
    halves = b.write.split(x, 1, f"{name}/first", f"{name}/second")
    parts = [_layer(b, half, f"{block.name}.conv{index}") for index, half in enumerate(halves, 1)]
    y = b.write.op("Add", *parts, name=f"{name}/sum")
    return pixel_unshuffle(b.write, y, name, f"{name}/")


def _up(b: Builder, block: Block, x: str) -> str:
    name = short(block.name)
    both = [_layer(b, x, f"{block.name}.conv{index}") for index in (1, 2)]
    y = b.write.op("Concat", *both, axis=1, name=f"{name}/both")
    return b.write.op("DepthToSpace", y, blocksize=2, mode="CRD", name=name)


PLAIN: BlockWriters = {"residual": partial(residual, _half), "fusion": _fusion, "down": _down,
                       "up": _up}


# -- layers -------------------------------------------------------------------------------------
def _reactnet(b: Builder, x: str, name: str) -> str:
    """BinaryConv with its shortcut, then RPReLU."""
    key = short(name)
    y = _node(b, x, name, residual=x)
    y = b.write.op("Add", y, _column(b, f"{name}.shift_in"), name=f"{key}/moved")
    y = b.write.op("PRelu", y, _column(b, f"{name}.slope"), name=f"{key}/rectified")
    return b.write.op("Add", y, _column(b, f"{name}.shift_out"), name=f"{key}/y")


def _xnor(b: Builder, x: str, name: str) -> str:
    """BinaryConv times K: |x| averaged over channels, then over the kernel's window."""
    key, op = short(name), b.write.op
    k = b.weights.binary[f"{name}.weight"].words.shape[1]
    mean = op("ReduceMean", op("Abs", x, name=f"{key}/abs"), _integers(b, 1), name=f"{key}/mean")
    scale = mean if k == 1 else op("AveragePool", mean, kernel_shape=[k, k], pads=[k // 2] * 4,
                                   count_include_pad=1, name=f"{key}/scale")
    y = op("Mul", _node(b, x, name), scale, name=f"{key}/scaled")
    return op("Add", y, x, name=f"{key}/y")


def _dab(b: Builder, x: str, name: str) -> str:
    """BinaryConv of x - t times s; t and s are computed from the image."""
    key, op = short(name), b.write.op
    mean = op("ReduceMean", x, _integers(b, 2, 3), name=f"{key}/mean")
    t = op("Mul", _column(b, f"{name}.center"), mean, name=f"{key}/center")
    t = op("Add", t, _column(b, f"{name}.threshold"), name=f"{key}/t")
    shifted = op("Sub", x, t, name=f"{key}/shifted")
    size = op("ReduceMean", op("Abs", shifted, name=f"{key}/abs"), _integers(b, 1, 2, 3),
              name=f"{key}/size")
    one = b.write.initializer("one", np.ones(1, np.float32))
    size = op("Sub", size, one, name=f"{key}/excess")
    exponent = op("Mul", b.parameter(f"{name}.sharpness"), size, name=f"{key}/exponent")
    scale = op("Exp", exponent, name=f"{key}/scale")
    y = op("Mul", _node(b, shifted, name), scale, name=f"{key}/scaled")
    return op("Add", y, x, name=f"{key}/y")


_LAYERS = {"reactnet": _reactnet, "xnor": _xnor, "dab": _dab}


def _layer(b: Builder, x: str, name: str) -> str:
    """One binary layer with its shortcut."""
    return _LAYERS[b.config.binarizer](b, x, name)


def _node(b: Builder, x: str, name: str, residual: str | None = None) -> str:
    """BinaryConv alone: alpha * sum, plus ``residual`` if given."""
    return b.ours(BINARY_CONV, short(name), x, *b.branch(name), residual or b.none(), b.none(),
                  plugin_namespace=DOMAIN, plugin_version=PLUGIN_VERSION)


# -- small things -------------------------------------------------------------------------------
def _column(b: Builder, name: str) -> str:
    """A parameter (C,) as (C, 1, 1), which broadcasts to a map."""
    return b.write.initializer(f"{short(name)}_map", b.weights.state[name].reshape(-1, 1, 1))


def _every_other(b: Builder, x: str, start: int, name: str) -> str:
    """Every other channel from ``start``."""
    return b.write.op("Slice", x, _integers(b, start), _integers(b, 1 << 31), _integers(b, 1),
                      _integers(b, 2), name=name)


def _integers(b: Builder, *values: int) -> str:
    """A constant int64 vector; one node per distinct value."""
    return b.write.integers("integers_" + "_".join(map(str, values)), *values)
