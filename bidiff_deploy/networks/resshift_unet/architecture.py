"""Blocks, layers and parameters of ResShift's UNet, in the published names and order.

Yue, Wang, Loy, "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual
Shifting", NeurIPS 2023, arXiv 2307.12348; Wang et al., "SinSR", CVPR 2024, arXiv 2311.14760, is one
step of the same network. BiMaCoSR (Liu et al., ICML 2025, arXiv 2502.00333) binarises all but its
first and last convolution: a layer K has, next to K.weight and K.bias, RPReLU's K.relu.* if it is a
convolution, and the branches K.skip_connection.* (sparse) and K.lora.* (low rank) unless its stride
is 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..base import Parameter
from ..resshift.vq import COLORS
from .config import UnetConfig

__all__ = ["Block", "UnetLayer", "blocks", "layers", "parameters"]


@dataclass(frozen=True)
class Block:
    """One part of the network, in order of execution.

    kind       stem | residual | stage | down | up | head
    name       prefix of its keys
    level      its input is 2^level times smaller than a latent
    cin, cout  channels
    joins      whether the last skip is concatenated to its input first; ``cin`` includes it
    pushes     whether its output is a skip
    """

    kind: str
    name: str
    level: int
    cin: int
    cout: int
    joins: bool = False
    pushes: bool = False


def blocks(config: UnetConfig) -> Iterator[Block]:
    """Every part, in order of execution."""
    last, channels = config.levels - 1, config.channels(0)
    yield Block("stem", "input_blocks.0.0", 0, config.autoencoder.latent + COLORS, channels,
                pushes=True)
    skips, place = [channels], 1
    for level in range(config.levels):
        for index in range(config.num_res_blocks[level]):
            name, width = f"input_blocks.{place}", config.channels(level)
            staged = index == 0 and config.staged(level)
            yield Block("residual", f"{name}.0", level, channels, width, pushes=not staged)
            channels = width
            if staged:
                yield Block("stage", f"{name}.1", level, channels, channels, pushes=True)
            skips.append(channels)
            place += 1
        if level < last:
            yield Block("down", f"input_blocks.{place}.0.op", level, channels, channels,
                        pushes=True)
            skips.append(channels)
            place += 1
    for index, kind in enumerate(("residual", "stage", "residual")):
        yield Block(kind, f"middle_block.{index}", last, channels, channels)
    place = 0
    for level in range(last, -1, -1):
        for index in range(config.num_res_blocks[level] + 1):
            name, width = f"output_blocks.{place}", config.channels(level)
            yield Block("residual", f"{name}.0", level, channels + skips.pop(), width, joins=True)
            channels, place = width, place + 1
            staged = index == 0 and config.staged(level)
            if staged:
                yield Block("stage", f"{name}.1", level, channels, channels)
            if level and index == config.num_res_blocks[level]:
                yield Block("up", f"{name}.{1 + staged}.conv", level, channels, channels)
    yield Block("head", "out", 0, channels, config.autoencoder.latent)


@dataclass(frozen=True)
class UnetLayer:
    """One layer with weights.

    kind       conv | linear | norm | table
    name       prefix of its keys
    cin, cout  channels; of a table, its rows and columns
    kernel     side of a convolution
    level      of its output: 2^level times smaller than a latent; None: of the time path
    stride     2 where a map is halved
    binary     whether the binary form binarises it
    """

    kind: str
    name: str
    cin: int
    cout: int
    kernel: int = 1
    level: int | None = None
    stride: int = 1
    binary: bool = True


def layers(config: UnetConfig) -> Iterator[UnetLayer]:
    """Every layer, in the published order, which is that of execution but for the time path."""
    time = 4 * config.model_channels
    yield UnetLayer("linear", "time_embed.0", config.model_channels, time)
    yield UnetLayer("linear", "time_embed.2", time, time)
    for block in blocks(config):
        name, level, cin, cout = block.name, block.level, block.cin, block.cout
        if block.kind == "residual":
            yield UnetLayer("norm", f"{name}.in_layers.0", cin, cin)
            yield UnetLayer("conv", f"{name}.in_layers.2", cin, cout, 3, level)
            yield UnetLayer("linear", f"{name}.emb_layers.1", time, 2 * cout)
            yield UnetLayer("norm", f"{name}.out_layers.0", cout, cout)
            yield UnetLayer("conv", f"{name}.out_layers.3", cout, cout, 3, level)
            if cin != cout:
                yield UnetLayer("conv", f"{name}.skip_connection", cin, cout, 1, level)
        elif block.kind == "stage":
            yield from _stage(config, block)
        elif block.kind == "down":
            yield UnetLayer("conv", name, cin, cout, 3, level + 1, stride=2)
        elif block.kind == "up":
            yield UnetLayer("conv", name, cin, cout, 3, level - 1)
        elif block.kind == "stem":
            yield UnetLayer("conv", name, cin, cout, 3, level, binary=False)
        else:
            yield UnetLayer("norm", f"{name}.0", cin, cin)
            yield UnetLayer("conv", f"{name}.2", cin, cout, 3, level, binary=False)


def _stage(config: UnetConfig, block: Block) -> Iterator[UnetLayer]:
    width, hidden, level = config.swin_embed_dim, config.hidden, block.level
    rows = (2 * config.level(level).window - 1) ** 2
    yield UnetLayer("conv", f"{block.name}.patch_embed.proj", block.cin, width, 1, level)
    for index in range(config.swin_depth):
        name = f"{block.name}.blocks.{index}"
        yield UnetLayer("norm", f"{name}.norm1", width, width)
        yield UnetLayer("table", f"{name}.attn.relative_position_bias_table", rows, config.heads)
        yield UnetLayer("linear", f"{name}.attn.qkv", width, 3 * width, level=level)
        yield UnetLayer("linear", f"{name}.attn.proj", width, width, level=level)
        yield UnetLayer("norm", f"{name}.norm2", width, width)
        yield UnetLayer("conv", f"{name}.mlp.fc1", width, hidden, 1, level)
        yield UnetLayer("conv", f"{name}.mlp.fc2", hidden, width, 1, level)
    yield UnetLayer("conv", f"{block.name}.patch_unembed.proj", width, block.cout, 1, level)


def parameters(config: UnetConfig) -> Iterator[tuple[str, Parameter]]:
    """Every parameter by its published key. Weights of linear layers are (out, in, 1, 1) here."""
    for layer in layers(config):
        for key, shape in _tensors(layer, config.rank):
            name = f"{layer.name}{key}"
            yield name, Parameter(shape, (name,), indices=key.endswith("indices_float"),
                                  binary=bool(config.rank and layer.binary and key == ".weight"
                                              and layer.kind in ("conv", "linear")))


def _tensors(layer: UnetLayer, rank: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    cin, cout, k = layer.cin, layer.cout, layer.kernel
    if layer.kind == "table":
        yield "", (cin, cout)
        return
    yield ".weight", (cout,) if layer.kind == "norm" else (cout, cin, k, k)
    yield ".bias", (cout,)
    if layer.kind == "norm" or not rank or not layer.binary:
        return
    if layer.kind == "conv":
        for part in ("pr_bias0.bias", "pr_prelu.weight", "pr_bias1.bias"):
            yield f".relu.{part}", (cout,)
    if layer.stride == 1:
        count = 2 * max(cin, cout)
        yield ".skip_connection.values", (count,)
        yield ".skip_connection.indices_float", (2, count)
        # A linear layer's factors have each other's names.
        down, up = ("A", "B") if layer.kind == "conv" else ("B", "A")
        yield f".lora.{down}.weight", (rank, cin)
        yield f".lora.{up}.weight", (cout, rank)
