"""Blocks whose binary layers are BinaryConv between standard operators.

The fused binary operators contain the published binarizer, and two layers with identity shortcuts.
Other binarizers use BinaryConv for sum, scale and shortcut, and standard ONNX operators for the
rest; blocks of a single layer use standard operators for its shortcut. The output of a layer's
BinaryConv has the layer's name ("e3.c1"); names of the other values begin with it ("e3.c1/scaled").
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ...operators.block_functions import pixel_unshuffle
from ...operators.names import BINARY_CONV, DOMAIN, GROUP_NORM_SWISH, PLUGIN_VERSION
from ...operators.value_names import short
from .architecture import Block
from .binarizers import DOREFA, DOREFA_LEVEL, cfb_groups
from .bit_planes import bit_planes, move
from .graph_builder import BlockWriters, Builder, residual
from .step_constants import offset_kernel, plane_alpha


def _half(b: Builder, block: Block, index: int, output: str, x: str, time: str, skip: str) -> str:
    h = b.write.op(GROUP_NORM_SWISH, x, *b.norm(f"{block.name}.norm{index}"), domain=DOMAIN,
                   groups=b.config.norm_groups, name=f"{short(block.name)}/n{index}")
    y = _layer(b, h, f"{block.name}.conv{index}")
    added = b.write.per_channel(time, f"{output}/time") if index == 1 else skip
    return b.write.op("Add", y, added, name=output)


def _fusion(b: Builder, block: Block, x: str, skip: str) -> str:
    name, parts = short(block.name), []
    if block.single:
        both = b.write.op("Concat", x, skip, axis=1, name=f"{name}/both")
        return _single(b, block, both, name)
    for index in (1, 2):
        pieces = [_every_other(b, value, start, f"{name}/{label}{index}")
                  for value, start, label in ((x, 2 - index, "x"), (skip, index - 1, "skip"))]
        mixed = b.write.op("Concat", *pieces, axis=1, name=f"{name}/mixed{index}")
        parts.append(_layer(b, mixed, f"{block.name}.conv{index}"))
    return b.write.op("Add", *parts, name=name)


def _down(b: Builder, block: Block, x: str) -> str:
    name = short(block.name)
    if block.single:
        return pixel_unshuffle(b.write, _single(b, block, x, f"{name}/sum"), name, f"{name}/")
    halves = b.write.split(x, 1, f"{name}/first", f"{name}/second")
    parts = [_layer(b, half, f"{block.name}.conv{index}") for index, half in enumerate(halves, 1)]
    y = b.write.op("Add", *parts, name=f"{name}/sum")
    return pixel_unshuffle(b.write, y, name, f"{name}/")


def _up(b: Builder, block: Block, x: str) -> str:
    name = short(block.name)
    if block.single:
        y = _single(b, block, x, f"{name}/both")
    else:
        both = [_layer(b, x, f"{block.name}.conv{index}") for index in (1, 2)]
        y = b.write.op("Concat", *both, axis=1, name=f"{name}/both")
    return b.write.op("DepthToSpace", y, blocksize=2, mode="CRD", name=name)


def _single(b: Builder, block: Block, x: str, output: str) -> str:
    """A block's one layer with BiDense's bypass. An Identity names its output: that of the layer is
    BinaryConv's if nothing follows it."""
    (name, inputs, outputs), = block.convolutions
    y = _layer(b, x, name, _bypass(b, x, inputs, outputs, f"{short(name)}/bypass"))
    return b.write.op("Identity", y, name=output)


def _bypass(b: Builder, x: str, inputs: int, outputs: int, name: str) -> str:
    """The input repeated, the mean of groups of channels, and the mean of the other channels; see
    ``binarizers.cfb_groups``."""
    repeats, groups, size = cfb_groups(inputs, outputs)
    parts = [x] * repeats
    if size:
        pieces = [_channels(b, x, index * size, (index + 1) * size, f"{name}/group{index}")
                  for index in range(groups)]
        total = pieces[0]
        for index, piece in enumerate(pieces[1:], 1):
            total = b.write.op("Add", total, piece, name=f"{name}/sum{index}")
        share = b.write.initializer(f"share_{groups}", np.full(1, 1 / groups, np.float32))
        parts.append(b.write.op("Mul", total, share, name=f"{name}/mean"))
    if groups:
        others = _channels(b, x, groups * size, inputs, f"{name}/others")
        parts.append(b.write.op("ReduceMean", others, _integers(b, 1), name=f"{name}/last"))
    return b.write.op("Concat", *parts, axis=1, name=name)


PLAIN: BlockWriters = {"residual": partial(residual, _half), "fusion": _fusion, "down": _down,
                       "up": _up}


# -- layers -------------------------------------------------------------------------------------
def _dorefa(b: Builder, x: str, name: str, shortcut: str) -> str:
    """BinaryConv with its shortcut, which is the half of signs, and the half of 1 of each tap that
    is inside the image. Of several bits: a BinaryConv for each pair of bit planes, each adds the
    sum so far."""
    key, op, kernel = short(name), b.write.op, offset_kernel(b.weights.binary[f"{name}.weight"])
    y = (_node if b.config.binary_layers.products == 1 else _planes)(b, x, name, shortcut)
    if kernel.shape[-1] == 1:
        offset = b.write.initializer(f"{key}.offset_map", kernel.reshape(-1, 1, 1))
    else:
        size = op("Slice", op("Shape", x, name=f"{key}/shape"), _integers(b, 2), _integers(b, 4),
                  name=f"{key}/size")
        shape = op("Concat", _integers(b, 1, 1), size, axis=0, name=f"{key}/plane")
        ones = op("Expand", _one(b), shape, name=f"{key}/ones")
        offset = op("Conv", ones, b.write.initializer(f"{key}.offset_kernel", kernel),
                    kernel_shape=[3, 3], pads=[1] * 4, name=f"{key}/offset")
    return op("Add", y, offset, name=f"{key}/y")


def _planes(b: Builder, x: str, name: str, y: str) -> str:
    """The sum of ``y`` and a layer's products of bit planes; see ``bit_planes``."""
    key, kind, residue = short(name), b.config.binary_layers, x
    weight, most = b.weights.binary[f"{name}.weight"], kind.bits[1] - 1
    parts = [b.write.initializer(f"{key}.words_{index}", weight.plane(index).words)
             for index in range(weight.planes)]
    for node, plane in zip(kind.nodes(name), bit_planes(*kind.bits)):
        top = plane.activation == most
        if not top and not plane.weight:
            residue = _moved(b, residue, plane.activation + 1, key)
        threshold = np.full(weight.in_channels, -DOREFA_LEVEL if top else 0, np.float32)
        alpha = plane_alpha(weight, plane)
        vectors = [b.write.initializer(f"{key}.{part}", value) for part, value in (
            (f"alpha_{plane.weight}_{plane.activation}", alpha),
            ("threshold" if top else "zeros", threshold),
            ("rprelu", np.stack([np.zeros_like(alpha), np.ones_like(alpha),
                                 np.zeros_like(alpha)])))]
        y = _binary_conv(b, node, residue, parts[plane.weight], *vectors, y)
    return y


def _moved(b: Builder, residue: str, plane: int, key: str) -> str:
    """The residue of the next smaller bit."""
    to_next, op = move(plane, b.config.activation_bits), b.write.op
    numbers = [b.write.initializer(f"plane_{plane}.{part}", np.full(1, value, np.float32))
               for part, value in (("at", to_next.at), ("above", to_next.above),
                                   ("below", to_next.below))]
    bit = op("GreaterOrEqual", residue, numbers[0], name=f"{key}/bit_{plane}")
    step = op("Where", bit, *numbers[1:], name=f"{key}/move_{plane}")
    return op("Add", residue, step, name=f"{key}/residue_{plane - 1}")


def _reactnet(b: Builder, x: str, name: str, shortcut: str) -> str:
    """BinaryConv with its shortcut, then RPReLU."""
    key = short(name)
    y = _node(b, x, name, shortcut)
    y = b.write.op("Add", y, _column(b, f"{name}.shift_in"), name=f"{key}/moved")
    y = b.write.op("PRelu", y, _column(b, f"{name}.slope"), name=f"{key}/rectified")
    return b.write.op("Add", y, _column(b, f"{name}.shift_out"), name=f"{key}/y")


def _xnor(b: Builder, x: str, name: str, shortcut: str) -> str:
    """BinaryConv times K: |x| averaged over channels, then over the kernel's window."""
    key, op = short(name), b.write.op
    k = b.weights.binary[f"{name}.weight"].words.shape[1]
    mean = op("ReduceMean", op("Abs", x, name=f"{key}/abs"), _integers(b, 1), name=f"{key}/mean")
    scale = mean if k == 1 else op("AveragePool", mean, kernel_shape=[k, k], pads=[k // 2] * 4,
                                   count_include_pad=1, name=f"{key}/scale")
    y = op("Mul", _node(b, x, name), scale, name=f"{key}/scaled")
    return op("Add", y, shortcut, name=f"{key}/y")


def _dab(b: Builder, x: str, name: str, shortcut: str) -> str:
    """BinaryConv of x - t times s; t and s are computed from the image."""
    key, op = short(name), b.write.op
    mean = op("ReduceMean", x, _integers(b, 2, 3), name=f"{key}/mean")
    t = op("Mul", _column(b, f"{name}.center"), mean, name=f"{key}/center")
    t = op("Add", t, _column(b, f"{name}.threshold"), name=f"{key}/t")
    shifted = op("Sub", x, t, name=f"{key}/shifted")
    size = op("ReduceMean", op("Abs", shifted, name=f"{key}/abs"), _integers(b, 1, 2, 3),
              name=f"{key}/size")
    size = op("Sub", size, _one(b), name=f"{key}/excess")
    exponent = op("Mul", b.parameter(f"{name}.sharpness"), size, name=f"{key}/exponent")
    scale = op("Exp", exponent, name=f"{key}/scale")
    y = op("Mul", _node(b, shifted, name), scale, name=f"{key}/scaled")
    return op("Add", y, shortcut, name=f"{key}/y")


def _layer(b: Builder, x: str, name: str, shortcut: str | None = None) -> str:
    """One binary layer with its shortcut, by default its input."""
    return _LAYERS.get(b.config.binarizer, _node)(b, x, name, shortcut or x)


def _node(b: Builder, x: str, name: str, residual: str | None = None) -> str:
    """BinaryConv alone, plus ``residual`` if given."""
    return _binary_conv(b, name, x, *b.branch(name), residual or b.none())


def _binary_conv(b: Builder, name: str, *inputs: str) -> str:
    """A BinaryConv without a time vector."""
    return b.ours(BINARY_CONV, short(name), *inputs, b.none(), plugin_namespace=DOMAIN,
                  plugin_version=PLUGIN_VERSION)


_LAYERS = {DOREFA: _dorefa, "reactnet": _reactnet, "xnor": _xnor, "dab": _dab}


# -- small things -------------------------------------------------------------------------------
def _column(b: Builder, name: str) -> str:
    """A parameter (C,) as (C, 1, 1), which broadcasts to a map."""
    return b.write.initializer(f"{short(name)}_map", b.weights.state[name].reshape(-1, 1, 1))


def _every_other(b: Builder, x: str, start: int, name: str) -> str:
    """Every other channel from ``start``."""
    return b.write.op("Slice", x, _integers(b, start), _integers(b, 1 << 31), _integers(b, 1),
                      _integers(b, 2), name=name)


def _channels(b: Builder, x: str, start: int, end: int, name: str) -> str:
    return b.write.op("Slice", x, _integers(b, start), _integers(b, end), _integers(b, 1),
                      name=name)


def _one(b: Builder) -> str:
    return b.write.initializer("one", np.ones(1, np.float32))


def _integers(b: Builder, *values: int) -> str:
    """A constant int64 vector; one node per distinct value."""
    return b.write.integers("integers_" + "_".join(map(str, values)), *values)
