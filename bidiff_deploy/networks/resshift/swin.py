"""Writes the Swin stages of the ResShift family.

A stage is patch_unembed(blocks(patch_embed(x))), and a block x + attn(norm1 x); x + mlp(norm2 x),
after Liu et al., "Swin Transformer", ICCV 2021, arXiv 2103.14030, with three differences that the
published weights were trained with: norms are GroupNorms over the whole map, the MLP's layers are
1x1 convolutions, and the mask of a shifted block is the family's own (``windows``).

Inside a stage a map is (N, columns of windows, rows of windows, window^2, C): columns first, so
that one transpose of long runs cuts a map into windows.
"""

from __future__ import annotations

import numpy as np

from ...operators.value_names import short
from .windows import Level, relative_positions, shift_mask
from .writer import GROUPS, Writer

__all__ = ["SwinWriter"]

_EPSILON = 1e-5  # of the norms
_WINDOWS = 2  # axis of the rows of windows


class SwinWriter(Writer):
    """Writes stages. A network may replace ``embed``, ``linear``, ``pointwise`` and
    ``modulate``."""

    width: int  # channels inside every stage
    head_channels: int

    def stage(self, x: str, name: str, level: Level, depth: int) -> str:
        """A stage of ``depth`` blocks on a map."""
        key = short(name)
        x = self.embed(x, f"{name}.patch_embed.proj")
        x = self.op("Transpose", x, perm=[0, 2, 3, 1], name=f"{key}.tokens")
        x = self.windows(x, level.window, f"{key}.windows")
        for index in range(depth):
            x = self.block(x, f"{name}.blocks.{index}", level, level.shift if index % 2 else 0)
        x = self.joined(x, level.window, f"{key}.joined")
        x = self.op("Transpose", x, perm=[0, 3, 1, 2], name=f"{key}.map")
        return self.embed(x, f"{name}.patch_unembed.proj")

    def block(self, x: str, name: str, level: Level, shift: int) -> str:
        """One block on windows."""
        key, window = short(name), level.window
        y = self.modulate(self.norm(x, f"{name}.norm1"), f"{name}.adaLN_scale_msa", window)
        if shift:
            y = self.rolled(y, window, shift, f"{key}.rolled")
        y = self.attention(y, f"{name}.attn", level, shift)
        if shift:
            y = self.rolled(y, window, -shift, f"{key}.returned")
        x = self.op("Add", x, y, name=f"{key}.attended")
        y = self.modulate(self.norm(x, f"{name}.norm2"), f"{name}.adaLN_scale_mlp", window)
        y = self.gelu(self.pointwise(y, f"{name}.mlp.fc1"), f"{key}.mlp.active")
        return self.op("Add", x, self.pointwise(y, f"{name}.mlp.fc2"), name=key)

    # -- layers that networks replace -------------------------------------------------------------
    def embed(self, x: str, name: str) -> str:
        """A 1x1 convolution of a map (N, C, H, W)."""
        return self.convolution(x, name)

    def linear(self, x: str, name: str) -> str:
        """A linear layer of the last axis."""
        return self._product(x, name)

    def pointwise(self, x: str, name: str) -> str:
        """A 1x1 convolution of the last axis."""
        return self._product(x, name)

    def modulate(self, x: str, name: str, window: int) -> str:
        """What a network does to windows between a norm and attention or MLP; here nothing."""
        return x

    def _product(self, x: str, name: str) -> str:
        key, weight = short(name), self.weights.state[f"{name}.weight"]
        matrix = self.initializer(f"{key}.weight", weight.reshape(len(weight), -1).T)
        y = self.op("MatMul", x, matrix, name=f"{key}/product")
        return self.op("Add", y, self.parameter(f"{name}.bias"), name=key)

    # -- parts ------------------------------------------------------------------------------------
    def norm(self, x: str, name: str) -> str:
        """GroupNorm over all windows of each image."""
        key, op = short(name), self.op
        channels = len(self.weights.state[f"{name}.weight"])
        flat = op("Reshape", x, self.integers(f"flat_{channels}", 0, -1, channels),
                  name=f"{key}/flat")
        one = self.integers("axis_1", 1)

        def group_mean(of: str, label: str) -> str:
            """The mean over positions and a group's channels, repeated for each channel."""
            if channels == GROUPS:
                return op("ReduceMean", of, one, name=f"{key}/{label}")
            mean = op("ReduceMean", of, one, name=f"{key}/{label}_channels")
            mean = op("Reshape", mean, self.integers(f"split_{channels}", 0, GROUPS,
                                                     channels // GROUPS),
                      name=f"{key}/{label}_split")
            mean = op("ReduceMean", mean, self.integers("axis_2", 2), name=f"{key}/{label}_groups")
            mean = op("Expand", mean, self.integers(f"each_{channels}", 1, 1, channels // GROUPS),
                      name=f"{key}/{label}_each")
            return op("Reshape", mean, self.integers(f"row_{channels}", 0, 1, channels),
                      name=f"{key}/{label}")

        centred = op("Sub", flat, group_mean(flat, "mean"), name=f"{key}/centred")
        variance = group_mean(op("Mul", centred, centred, name=f"{key}/squares"), "variance")
        deviation = op("Sqrt", op("Add", variance, self.number(_EPSILON), name=f"{key}/above_0"),
                       name=f"{key}/deviation")
        factor = op("Div", self.parameter(f"{name}.weight"), deviation, name=f"{key}/factor")
        y = op("Mul", centred, factor, name=f"{key}/scaled")
        y = op("Add", y, self.parameter(f"{name}.bias"), name=f"{key}/normal")
        return op("Reshape", y, op("Shape", x, name=f"{key}/shape"), name=key)

    def gelu(self, x: str, name: str) -> str:
        """x (1 + erf(x / sqrt 2)) / 2."""
        y = self.op("Div", x, self.number(np.sqrt(np.float32(2))), name=f"{name}/narrow")
        y = self.op("Add", self.op("Erf", y, name=f"{name}/erf"), self.number(1), name=f"{name}/up")
        y = self.op("Mul", x, y, name=f"{name}/twice")
        return self.op("Mul", y, self.number(0.5), name=name)

    def attention(self, x: str, name: str, level: Level, shift: int) -> str:
        """Multi-head attention inside windows."""
        key, op = short(name), self.op
        table = self.weights.state[f"{name}.relative_position_bias_table"]
        heads, tokens = table.shape[1], level.window ** 2
        thirds = self.linear(x, f"{name}.qkv")
        split = self.integers(f"heads_{heads}_{self.head_channels}_{tokens}", 0, 0, 0, tokens,
                              heads, self.head_channels)
        parts = {}
        for part, perm, value in zip("qkv", ([0, 1, 2, 4, 3, 5], [0, 1, 2, 4, 5, 3],
                                             [0, 1, 2, 4, 3, 5]),
                                     self.split(thirds, -1, *(f"{key}/{p}_flat" for p in "qkv"))):
            value = op("Reshape", value, split, name=f"{key}/{part}_heads")
            parts[part] = op("Transpose", value, perm=perm, name=f"{key}/{part}")
        q = op("Mul", parts["q"], self.number(self.head_channels ** -0.5), name=f"{key}/q_scaled")
        scores = op("MatMul", q, parts["k"], name=f"{key}/scores")
        scores = op("Add", scores, self._bias(name, level, shift, x), name=f"{key}/biased")
        weights = op("Softmax", scores, axis=-1, name=f"{key}/weights")
        mixed = op("MatMul", weights, parts["v"], name=f"{key}/mixed")
        mixed = op("Transpose", mixed, perm=[0, 1, 2, 4, 3, 5], name=f"{key}/mixed_tokens")
        flat = self.integers(f"tokens_{tokens}_{heads * self.head_channels}", 0, 0, 0, tokens,
                             heads * self.head_channels)
        return self.linear(op("Reshape", mixed, flat, name=f"{key}/joined"), f"{name}.proj")

    def _bias(self, name: str, level: Level, shift: int, x: str) -> str:
        """The bias of relative positions, with the mask of a shifted block: (heads, tokens, tokens)
        or (rows of windows, heads, tokens, tokens)."""
        key, window = short(name), level.window
        places = self.initializer(f"relative_positions.{window}", relative_positions(window))
        bias = self.op("Gather", self.parameter(f"{name}.relative_position_bias_table"), places,
                       axis=0, name=f"{key}/bias_last")
        bias = self.op("Transpose", bias, perm=[2, 0, 1], name=f"{key}/bias")
        if not shift:
            return bias
        return self.op("Add", bias, self._mask(level, shift, x), name=f"{key}/bias_masked")

    def _mask(self, level: Level, shift: int, x: str) -> str:
        """(rows of windows, 1, tokens, tokens): zeros, and the mask in the last row. Written once
        for each level."""
        name, op = f"mask.{level.index}", self.op
        if name not in self._constants:
            self._constants.add(name)
            mask = self.initializer(f"shift_mask.{level.window}.{shift}",
                                    shift_mask(level.window, shift))
            rows = op("Shape", x, start=_WINDOWS, end=_WINDOWS + 1, name=f"{name}/rows")
            others = op("Sub", rows, self.integers("one", 1), name=f"{name}/others")
            shape = op("Concat", others, self.integers("ones_3", 1, 1, 1), axis=0,
                       name=f"{name}/shape")
            none = op("Expand", self.constant(np.zeros((1, 1, 1, 1), np.float32), "not_last"),
                      shape, name=f"{name}/not_last")
            last = self.constant(np.ones((1, 1, 1, 1), np.float32), "last")
            which = op("Concat", none, last, axis=0, name=f"{name}/which")
            op("Mul", which, mask, name=name)
        return name

    # -- windows ----------------------------------------------------------------------------------
    def windows(self, x: str, window: int, name: str) -> str:
        """A map (N, H, W, C) cut into windows."""
        return self._cut(x, window, self.integers(
            f"windows_{window}_{self.width}", 0, 0, -1, window * window, self.width), name)

    def joined(self, x: str, window: int, name: str) -> str:
        """Windows joined to a map (N, H, W, C)."""
        return self._cut(x, window, self.integers(f"map_{self.width}", 0, 0, -1, self.width), name)

    def _cut(self, x: str, window: int, shape: str, name: str) -> str:
        """Rows of pixels, window columns apart, become rows of window columns, and the reverse."""
        runs = self.op("Reshape", x, self.integers(f"runs_{window}_{self.width}", 0, 0, -1, window,
                                                   self.width), name=f"{name}/runs")
        turned = self.op("Transpose", runs, perm=[0, 2, 1, 3, 4], name=f"{name}/turned")
        return self.op("Reshape", turned, shape, name=name)

    def rolled(self, x: str, window: int, shift: int, name: str) -> str:
        """Windows of the map that begins ``shift`` pixels further down and right, and goes on at
        its other end; a negative shift goes up and left."""
        x = self.joined(x, window, f"{name}/map")
        place, first = self.integers(f"at_{shift}", shift), self.integers("first", 0)
        end = self.integers("end", (1 << 31) - 1)
        for axis, label in ((1, "rows"), (2, "columns")):
            along = self.integers(f"axis_{axis}", axis)
            parts = [self.op("Slice", x, place, end, along, name=f"{name}/{label}_after"),
                     self.op("Slice", x, first, place, along, name=f"{name}/{label}_before")]
            x = self.op("Concat", *parts, axis=axis, name=f"{name}/{label}")
        return self.windows(x, window, name)
