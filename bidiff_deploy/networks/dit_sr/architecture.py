"""Options, blocks and parameters of DiT-SR, in the published names and order.

Cheng et al., "Effective Diffusion Transformer Architecture for Image Super-Resolution", AAAI 2025,
arXiv 2409.19589.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ..base import Parameter
from ..resshift.options import StagedOptions
from ..resshift.vq import COLORS, VqConfig
from .modulation import frequencies

__all__ = ["CELL", "Block", "DitSrConfig", "blocks", "parameters"]

CELL = 8  # side of the cells that AdaFM modulates; smaller where the nominal map is


@dataclass(frozen=True)
class DitSrConfig(StagedOptions):
    """Options of a DiT-SR network, by their published names.

    image_size             nominal side of a latent, a power of 2 times the lowest level's
    model_channels, channel_mult  channels of the highest level, and each level's factor
    attention_resolutions  nominal sides of the levels that have stages; the middle always has one
    swin_embed_dim, swin_depth, num_head_channels, mlp_ratio  of every stage
    window_size            side of attention's windows, smaller where the nominal map is
    autoencoder            options of the autoencoder, whose latents it predicts
    """

    network: ClassVar[str] = "dit-sr"

    image_size: int = 64
    model_channels: int = 160
    channel_mult: tuple[int, ...] = (1, 2, 2, 4)
    attention_resolutions: tuple[int, ...] = (64, 32, 16, 8)
    swin_embed_dim: int = 192
    swin_depth: int = 6
    num_head_channels: int = 32
    window_size: int = 8
    mlp_ratio: float = 4.0
    autoencoder: VqConfig = field(default_factory=VqConfig)

    def __post_init__(self) -> None:
        self.check(max_window=16)

    def grouped(self) -> dict[str, int]:
        return {"model_channels times the first of channel_mult": self.channels(0)}

    def cell(self, level: int) -> int:
        """Side of AdaFM's cells."""
        return min(CELL, self.image_size >> level)

    @property
    def size_multiple(self) -> int:
        """The sides of a latent are multiples of it: every level is cut into windows and cells."""
        return math.lcm(*(math.lcm(self.level(index).window, self.cell(index)) << index
                          for index in range(self.levels)))


@dataclass(frozen=True)
class Block:
    """One part of the network, in order of execution.

    kind       stem | stage | down | none | join: concatenate the last skip, convolve | up | head
    name       prefix of its keys; of ``none``, its place in the published list
    level      its input is 2^level times smaller than a latent
    cin, cout  channels; those of the skip included
    depth      of a stage
    pushes     whether its output is a skip
    """

    kind: str
    name: str
    level: int
    cin: int
    cout: int
    depth: int = 0
    pushes: bool = False


def blocks(config: DitSrConfig) -> Iterator[Block]:
    """Every part, in order of execution."""
    last = config.levels - 1
    staged = [config.image_size >> level in config.attention_resolutions
              for level in range(config.levels)]
    channels = config.channels(0)
    yield Block("stem", "input_blocks.0.0", 0, config.autoencoder.latent + COLORS, channels,
                pushes=True)
    skips, place = [channels], 1
    for level in range(config.levels):
        name = f"input_blocks.{place}"
        yield (Block("stage", f"{name}.0", level, channels, channels, config.swin_depth, True)
               if staged[level] else Block("none", name, level, channels, channels, pushes=True))
        skips.append(channels)
        place += 1
        if level < last:
            below = config.channels(level + 1)
            yield Block("down", f"input_blocks.{place}.0.op", level, channels, below, pushes=True)
            skips.append(below)
            place, channels = place + 1, below
    yield Block("stage", "middle_block.0", last, channels, channels, config.swin_depth)
    for level in range(last, -1, -1):
        for second in (False, True):
            name = f"output_blocks.{2 * (last - level) + second}"
            width = config.channels(level)
            yield Block("join", f"{name}.0", level, channels + skips.pop(), width)
            channels = width
            if staged[level]:
                yield Block("stage", f"{name}.1", level, channels, channels,
                            1 if second else config.swin_depth)
            if second and level:
                above = config.channels(level - 1)
                yield Block("up", f"{name}.{1 + staged[level]}.conv", level, channels, above)
                channels = above
    yield Block("head", "out", 0, channels, config.autoencoder.latent)


def parameters(config: DitSrConfig) -> Iterator[tuple[str, Parameter]]:
    """Every parameter by its published key, in order of execution."""
    for name, shape in _shapes(config):
        yield name, Parameter(shape, (name,))


def _shapes(config: DitSrConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    time = 4 * config.model_channels
    yield from _linear("time_embed.0", config.model_channels, time)
    yield from _linear("time_embed.2", time, time)
    for block in blocks(config):
        if block.kind == "stage":
            yield from _stage(config, block, time)
        elif block.kind == "head":
            yield from _norm(f"{block.name}.0", block.cin)
            yield from _convolution(f"{block.name}.2", block.cin, block.cout, 3)
        elif block.kind != "none":
            yield from _convolution(block.name, block.cin, block.cout, 3)


def _stage(config: DitSrConfig, block: Block, time: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, hidden = config.swin_embed_dim, config.hidden
    window = config.level(block.level).window
    yield from _convolution(f"{block.name}.patch_embed.proj", block.cin, width, 1)
    for index in range(block.depth):
        name = f"{block.name}.blocks.{index}"
        yield from _norm(f"{name}.norm1", width)
        yield f"{name}.attn.relative_position_bias_table", ((2 * window - 1) ** 2, config.heads)
        yield from _linear(f"{name}.attn.qkv", width, 3 * width)
        yield from _linear(f"{name}.attn.proj", width, width)
        yield from _norm(f"{name}.norm2", width)
        yield from _convolution(f"{name}.mlp.fc1", width, hidden, 1)
        yield from _convolution(f"{name}.mlp.fc2", hidden, width, 1)
        for part in ("msa", "mlp"):
            yield from _linear(f"{name}.adaLN_scale_{part}.1", time,
                               frequencies(config.cell(block.level)))
    yield from _convolution(f"{block.name}.patch_unembed.proj", width, block.cout, 1)


def _convolution(name: str, cin: int, cout: int, k: int
                 ) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (cout, cin, k, k)
    yield f"{name}.bias", (cout,)


def _linear(name: str, cin: int, cout: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (cout, cin)
    yield f"{name}.bias", (cout,)


def _norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)
