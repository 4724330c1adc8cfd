"""One step of ResShift's UNet as an ONNX graph.

Inputs ``noisy``, the scaled latent (N, C, H, W), and ``condition``, the low-resolution image in
[-1, 1], (N, 3, H, W); output ``prediction``, the clean latent. Only the second norm of every
residual block depends on time: its scale and bias are the step's initializers.

Inside a stage a map is (N, C, columns of windows, rows of pixels * window side): the pixels of a
window are neighbours, and layers of single pixels are 1x1 convolutions all the same.
"""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto

from ...operators.definitions import functions, scaled_functions
from ...operators.names import DOMAIN, GROUP_NORM_SWISH, NORM_CONV, SCALED_BINARY_CONV
from ...operators.value_names import short
from ..base import StepGraph, Store, Weights
from ..resshift.swin import SwinWriter
from ..resshift.vq import COLORS
from ..resshift.windows import Level, relative_positions, shift_mask
from ..resshift.writer import GROUPS
from .architecture import Block, blocks
from .config import UnetConfig
from .layers import ScaledLayer
from .time_path import step_norms

__all__ = ["build_step"]

_EPSILON = 1e-5
# Where GELU as the published program computes it, torch's in float32 on CPUs, becomes 0, its erf
# being -1; in exact arithmetic it never does. The next layer takes signs of its values, and that of
# 0 is 0, so the place decides what the network computes.
_GELU_ENDS = -5.5430404
_GELU_BEGINS = -5.54  # where ONNX Runtime's is still negative


def build_step(weights: Weights, store: Store, timestep: int) -> StepGraph:
    """Build the graph of one step; ``store`` as in ``networks.base.Store``."""
    config: UnetConfig = weights.config
    write = (_BinaryWriter if config.rank else _FloatWriter)(
        weights, store, step_norms(weights, timestep))
    write.config = config
    x = write.op("Concat", "noisy", "condition", axis=1, name="input")
    skips: list[str] = []
    for block in blocks(config):
        if block.joins:
            x = write.op("Concat", x, skips.pop(), axis=1, name=f"{short(block.name)}/both")
        x = getattr(write, block.kind)(x, block)
        if block.pushes:
            skips.append(x)
    write.nodes[-1].output[0] = "prediction"
    latent = config.autoencoder.latent
    return write.finished("step", {"noisy": latent, "condition": COLORS}, "prediction", latent,
                          write.definitions())


class _UnetWriter(SwinWriter):
    config: UnetConfig

    # -- blocks -----------------------------------------------------------------------------------
    def stem(self, x: str, block: Block) -> str:
        return self.convolution(x, block.name)

    def head(self, x: str, block: Block) -> str:
        x = self.norm_swish(x, *self.norm_of(f"{block.name}.0"), name="out.1")
        return self.convolution(x, f"{block.name}.2")

    def up(self, x: str, block: Block) -> str:
        return self.layer(self.nearest_twice(x, f"{short(block.name)}/large"), block.name)

    def norm_of(self, name: str, of_step: bool = False) -> tuple[str, str]:
        take = self.step if of_step else self.parameter
        return take(f"{name}.weight"), take(f"{name}.bias")

    def norm_swish(self, x: str, scale: str, bias: str, name: str) -> str:
        return self.op(GROUP_NORM_SWISH, x, scale, bias, domain=DOMAIN, groups=GROUPS, name=name)

    def layer(self, x: str, name: str) -> str:
        """A convolution or linear layer of a map, stride 1."""
        raise NotImplementedError

    # -- stages -----------------------------------------------------------------------------------
    def stage(self, x: str, block: Block) -> str:  # type: ignore[override]
        name, key, level = block.name, short(block.name), self.config.level(block.level)
        x = self.layer(x, f"{name}.patch_embed.proj")
        x = self.windows(x, level.window, f"{key}.windows")
        for index in range(self.config.swin_depth):
            x = self.block(x, f"{name}.blocks.{index}", level, level.shift if index % 2 else 0)
        return self.layer(self.joined(x, level.window, f"{key}.joined"),
                          f"{name}.patch_unembed.proj")

    def norm(self, x: str, name: str) -> str:
        return self.group_norm(x, name, _EPSILON)

    def pointwise(self, x: str, name: str) -> str:
        return self.layer(x, name)

    def attention(self, x: str, name: str, level: Level, shift: int) -> str:
        key, op, config = short(name), self.op, self.config
        tokens, channels = level.window ** 2, config.num_head_channels
        thirds = self.split(self.layer(x, f"{name}.qkv"), 1,
                            *(f"{key}/{part}_map" for part in "qkv"))
        size = op("Concat", op("Shape", x, end=1, name=f"{key}/batch"),
                  self.integers(f"heads_{config.heads}", config.heads, channels),
                  op("Shape", x, start=2, end=3, name=f"{key}/columns"),
                  self.integers(f"tokens_{tokens}", -1, tokens), axis=0, name=f"{key}/size")
        parts = {}
        for part, third in zip("qkv", thirds):
            heads = op("Reshape", third, size, name=f"{key}/{part}_heads")
            parts[part] = op("Transpose", heads, name=f"{key}/{part}",
                             perm=[0, 1, 3, 4, 2, 5] if part == "k" else [0, 1, 3, 4, 5, 2])
        q = op("Mul", parts["q"], self.number(channels ** -0.5), name=f"{key}/q_scaled")
        scores = op("MatMul", q, parts["k"], name=f"{key}/scores")
        scores = op("Add", scores, self.bias(name, level, shift, x), name=f"{key}/biased")
        shares = op("Softmax", scores, axis=-1, name=f"{key}/weights")
        mixed = op("MatMul", shares, parts["v"], name=f"{key}/mixed")
        mixed = op("Transpose", mixed, perm=[0, 1, 5, 2, 3, 4], name=f"{key}/mixed_heads")
        mixed = op("Reshape", mixed, op("Shape", x, name=f"{key}/shape"), name=f"{key}/joined")
        return self.layer(mixed, f"{name}.proj")

    def bias(self, name: str, level: Level, shift: int, x: str) -> str:
        """The bias of relative positions, with the mask of a shifted block: (heads, 1, 1 or rows of
        windows, tokens, tokens)."""
        key, window = short(name), level.window
        places = self.initializer(f"relative_positions.{window}", relative_positions(window))
        bias = self.op("Gather", self.parameter(f"{name}.relative_position_bias_table"), places,
                       axis=0, name=f"{key}/bias_last")
        bias = self.op("Transpose", bias, perm=[2, 0, 1], name=f"{key}/bias_heads")
        bias = self.op("Unsqueeze", bias, self.integers("axes_1_2", 1, 2), name=f"{key}/bias")
        if not shift:
            return bias
        return self.op("Add", bias, self.mask(level, shift, x), name=f"{key}/bias_masked")

    def mask(self, level: Level, shift: int, x: str) -> str:
        """(rows of windows, tokens, tokens): zeros, and the mask in the last row. Written once for
        each level."""
        name, op = f"mask.{level.index}", self.op
        if name not in self._constants:
            self._constants.add(name)
            mask = self.initializer(f"shift_mask.{level.window}.{shift}",
                                    shift_mask(level.window, shift))
            pixels = op("Shape", x, start=3, end=4, name=f"{name}/pixels")
            rows = op("Div", pixels, self.integers(f"tokens_of_{level.window}", level.window ** 2),
                      name=f"{name}/rows")
            others = op("Sub", rows, self.integers("one", 1), name=f"{name}/others")
            shape = op("Concat", others, self.integers("ones_2", 1, 1), axis=0,
                       name=f"{name}/shape")
            none = op("Expand", self.constant(np.zeros((1, 1, 1), np.float32), "not_last"), shape,
                      name=f"{name}/not_last")
            last = self.constant(np.ones((1, 1, 1), np.float32), "last")
            op("Mul", op("Concat", none, last, axis=0, name=f"{name}/which"), mask, name=name)
        return name

    # -- windows ----------------------------------------------------------------------------------
    def windows(self, x: str, window: int, name: str) -> str:
        """A map (N, C, H, W) cut into columns of windows, (N, C, W / window, H * window)."""
        return self._cut(x, window, name)

    def joined(self, x: str, window: int, name: str) -> str:
        return self._cut(x, window, name)

    def _cut(self, x: str, window: int, name: str, shape: str = "") -> str:  # type: ignore[override]
        """Rows of pixels, window columns apart, become rows of window columns, and the reverse."""
        runs = self.op("Reshape", x, self.integers(f"runs_{window}", 0, 0, 0, -1, window),
                       name=f"{name}/runs")
        turned = self.op("Transpose", runs, perm=[0, 1, 3, 2, 4], name=f"{name}/turned")
        return self.op("Reshape", turned, self.integers("lines", 0, 0, 0, -1), name=name)

    def rolled(self, x: str, window: int, shift: int, name: str) -> str:
        """As in ``SwinWriter``."""
        x = self.joined(x, window, f"{name}/map")
        place, first = self.integers(f"at_{shift}", shift), self.integers("first", 0)
        end = self.integers("end", (1 << 31) - 1)
        for axis, label in ((2, "rows"), (3, "columns")):
            along = self.integers(f"axis_{axis}", axis)
            parts = [self.op("Slice", x, place, end, along, name=f"{name}/{label}_after"),
                     self.op("Slice", x, first, place, along, name=f"{name}/{label}_before")]
            x = self.op("Concat", *parts, axis=axis, name=f"{name}/{label}")
        return self.windows(x, window, name)


class _FloatWriter(_UnetWriter):
    @staticmethod
    def definitions() -> list[FunctionProto]:
        return [function for function in functions()
                if function.name in (GROUP_NORM_SWISH, NORM_CONV)]

    def layer(self, x: str, name: str) -> str:
        return self.convolution(x, name)

    def residual(self, x: str, block: Block) -> str:
        name, key = block.name, short(block.name)
        skip = x if block.cin == block.cout else self.layer(x, f"{name}.skip_connection")
        y = self.norm_conv(x, f"{name}.in_layers.0", f"{name}.in_layers.2", f"{key}.first")
        return self.norm_conv(y, f"{name}.out_layers.0", f"{name}.out_layers.3", key, skip, True)

    def norm_conv(self, x: str, norm: str, conv: str, name: str, skip: str = "",
                  of_step: bool = False) -> str:
        """conv(SiLU(norm x)) + skip."""
        none = self.initializer("none", np.zeros(1, np.float32))
        return self.op(NORM_CONV, x, *self.norm_of(norm, of_step),
                       self.parameter(f"{conv}.weight"), self.parameter(f"{conv}.bias"), none,
                       skip or none, domain=DOMAIN, groups=GROUPS, compute="float32", name=name,
                       label=True)

    def down(self, x: str, block: Block) -> str:
        return self.convolution(x, block.name, stride=2)


class _BinaryWriter(_UnetWriter):
    @staticmethod
    def definitions() -> list[FunctionProto]:
        return scaled_functions()

    def layer(self, x: str, name: str, output: str = "") -> str:
        key = short(name)
        inputs = [self.initializer(f"{key}.{part}", value)
                  for part, value in ScaledLayer.of(self.weights, name).inputs().items()]
        return self.op(SCALED_BINARY_CONV, x, *inputs, domain=DOMAIN, name=output or key,
                       label=True)

    def residual(self, x: str, block: Block) -> str:
        name, key = block.name, short(block.name)
        y = self.norm_swish(x, *self.norm_of(f"{name}.in_layers.0"), name=f"{key}/active")
        y = self.layer(y, f"{name}.in_layers.2")
        y = self.norm_swish(y, *self.norm_of(f"{name}.out_layers.0", True), name=f"{key}/timed")
        y = self.layer(y, f"{name}.out_layers.3")
        if block.cin != block.cout:
            x = self.layer(x, f"{name}.skip_connection")
        return self.op("Add", x, y, name=key)

    def gelu(self, x: str, name: str) -> str:
        """GELU, 0 exactly where torch's is."""
        inside = self.op("Clip", x, self.number(_GELU_BEGINS), name=f"{name}/inside")
        y = super().gelu(inside, f"{name}/negative")
        above = self.op("GreaterOrEqual", x, self.number(_GELU_ENDS), name=f"{name}/above")
        return self.op("Where", above, y, self.number(0), name=name)

    def down(self, x: str, block: Block) -> str:
        """The convolution at every second pixel, plus the mean of 2x2 pixels."""
        key = short(block.name)
        y = self.layer(x, block.name, f"{key}/every")
        y = self.op("Slice", y, self.integers("origin", 0, 0),
                    self.integers("far", (1 << 31) - 1, (1 << 31) - 1),
                    self.integers("of_map", 2, 3), self.integers("every_second", 2, 2),
                    name=f"{key}/half")
        mean = self.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], name=f"{key}/mean")
        return self.op("Add", y, mean, name=key)
