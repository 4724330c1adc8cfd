"""The blocks of BI-DiffSR in torch.

``copies``: with more than 1, every map has that many times the channels, copy after copy, and what
cuts or joins channels does so in each copy; see ``one_step.wide``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks.bi_diffsr.architecture import TIME_EXPANSION, Block
from ...networks.bi_diffsr.config import NetworkConfig
from ...networks.bi_diffsr.scale_norm import folded
from .binary_layers import binary_layer


class TimeEmbedding(nn.Module):
    """Sinusoid of the raw timestep, then Linear, Swish, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear1 = nn.Linear(width, TIME_EXPANSION * width)
        self.linear2 = nn.Linear(TIME_EXPANSION * width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        """float32 timesteps (B,) -> (B, width)."""
        half = self.width // 2
        # float32 always: weights were trained with frequencies and arguments in float32.
        ramp = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
        angle = timestep[:, None] * torch.exp(-math.log(1e4) * ramp)
        wave = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
        return self.linear2(F.silu(self.linear1(wave.to(self.linear1.weight.dtype))))


def _parts(x: Tensor, count: int, copies: int) -> tuple[Tensor, ...]:
    """``count`` equal parts of the channels (N, C, ...), of each copy for a network of several."""
    if copies == 1:
        return x.chunk(count, dim=1)
    parts = torch.unflatten(x, 1, (copies, -1)).chunk(count, dim=2)
    return tuple(part.flatten(1, 2) for part in parts)


def _joined(parts: list[Tensor], copies: int) -> Tensor:
    """The inverse of ``_parts``."""
    if copies == 1:
        return torch.cat(parts, dim=1)
    return torch.cat([torch.unflatten(part, 1, (copies, -1)) for part in parts], 2).flatten(1, 2)


class Attention(nn.Module):
    """Single-head self-attention over all pixels, with its own GroupNorm and shortcut."""

    def __init__(self, channels: int, norm_groups: int, copies: int = 1) -> None:
        super().__init__()
        self.copies = copies
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = _parts(self.qkv(self.norm(x)).flatten(2), 3, self.copies)
        # Product, scale and softmax one after the other, as in the published code: a fused kernel
        # rounds differently, and later signs flip on the last bit.
        # Of several copies: sqrt(C) of one, and the product sums over all.
        scores = query.transpose(1, 2) @ key / math.sqrt(x.shape[1] * self.copies)
        attended = value @ scores.softmax(dim=-1).transpose(1, 2)
        return self.out(attended.reshape(x.shape)) + x


class Conv2d(nn.Conv2d):
    """A full-precision convolution, called like a binary layer."""

    def forward(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        return super().forward(x)


def _convolutions(config: NetworkConfig, block: Block, copies: int) -> dict[str, nn.Module]:
    """The block's convolutions, ``conv1`` and, unless it has a single layer, ``conv2``."""
    k = block.kernel_size
    return {name.rpartition(".")[2]:
            binary_layer(config, copies * inputs, copies * outputs, k) if block.binary
            else Conv2d(copies * inputs, copies * outputs, k, padding=k // 2)
            for name, inputs, outputs in block.convolutions}


class Residual(nn.Module):
    """conv(Swish(GN(x))) + time, conv(Dropout(Swish(GN(.)))), shortcut; then attention, if any.

    Of a network for several upscaling factors each GN has a Linear, see ``scale_norm``.
    """

    def __init__(self, config: NetworkConfig, block: Block, copies: int = 1) -> None:
        super().__init__()
        channels, groups = copies * block.channels, copies * config.norm_groups
        self.time = nn.Linear(config.inner_channel, channels)
        convolutions = _convolutions(config, block, copies)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = convolutions["conv1"]
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = convolutions["conv2"]
        self.dropout = nn.Dropout(config.dropout)
        for half in ("scale1", "scale2") if config.scales else ():
            linear = nn.Linear(config.inner_channel, 2 * channels)
            for parameter in linear.parameters():
                nn.init.zeros_(parameter)
            setattr(self, half, linear)
        if block.attention:
            self.attention = Attention(channels, groups, copies)

    def forward(self, x: Tensor, embedding: Tensor, group: Tensor,
                scale: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self._normed(1, x, scale)), group)
        h = h + self.time(F.silu(embedding))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self._normed(2, h, scale))), group)
        h = h + x
        return self.attention(h) if hasattr(self, "attention") else h

    def _normed(self, half: int, x: Tensor, scale: Tensor | None) -> Tensor:
        norm: nn.GroupNorm = getattr(self, f"norm{half}")
        if scale is None:
            normal: Tensor = norm(x)
            return normal
        # Folded as in export: the maps are normalised once, whatever the scale.
        linear: nn.Linear = getattr(self, f"scale{half}")
        weight, bias = folded(norm.weight, norm.bias, linear.weight, linear.bias, scale)
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)


class _ChannelChange(nn.Module):
    """Two layers of as many outputs as inputs, or a single one with BiDense's bypass."""

    conv1: nn.Module
    conv2: nn.Module

    def __init__(self, config: NetworkConfig, block: Block, copies: int = 1) -> None:
        super().__init__()
        self.single, self.copies = block.single, copies
        for name, module in _convolutions(config, block, copies).items():
            setattr(self, name, module)


class Down(_ChannelChange):
    """CP-Down: (N, C, H, W) -> (N, 2C, H/2, W/2), a BIConv on each half of the channels, or one
    C -> C/2."""

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        if self.single:
            return F.pixel_unshuffle(self.conv1(x, group), 2)
        first, second = _parts(x, 2, self.copies)
        return F.pixel_unshuffle(self.conv1(first, group) + self.conv2(second, group), 2)


class Up(_ChannelChange):
    """CP-Up: (N, C, H, W) -> (N, C/2, 2H, 2W), two BIConvs of the same input, or one C -> 2C."""

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        if self.single:
            return F.pixel_shuffle(self.conv1(x, group), 2)
        return F.pixel_shuffle(_joined([self.conv1(x, group), self.conv2(x, group)],
                                       self.copies), 2)


class Fusion(_ChannelChange):
    """CS-Fusion of a decoder map and a skip, C channels each, shuffled so both convs see both.

    The published code pairs odd channels of one with even channels of the other; the paper's
    equation pairs equal parities. Checkpoints were trained with the code. A single layer 2C -> C
    sees both whole.
    """

    def forward(self, x: Tensor, skip: Tensor, group: Tensor) -> Tensor:
        if self.single:
            mixed: Tensor = self.conv1(torch.cat([x, skip], dim=1), group)
            return mixed
        # Not x[:, 0::2]: its gradient is written into a map of zeros, and the maps are added.
        even, odd = torch.unflatten(x, 1, (-1, 2)).unbind(2)
        skip_even, skip_odd = torch.unflatten(skip, 1, (-1, 2)).unbind(2)
        return (self.conv1(_joined([odd, skip_even], self.copies), group)
                + self.conv2(_joined([even, skip_odd], self.copies), group))


class Head(nn.Module):
    """GroupNorm, Swish, 3x3 convolution to the prediction."""

    def __init__(self, config: NetworkConfig, channels: int, copies: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(copies * config.norm_groups, copies * channels)
        self.conv = nn.Conv2d(copies * channels, config.out_channel, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(x)))
