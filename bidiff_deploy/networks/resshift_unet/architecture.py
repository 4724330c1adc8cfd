"""Options, blocks and parameters of ResShift's UNet, in the published names and order.

Yue, Wang, Loy, "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual
Shifting", NeurIPS 2023, arXiv 2307.12348; Wang et al., "SinSR", CVPR 2024, arXiv 2311.14760, is one
step of the same network. BiMaCoSR (Liu et al., ICML 2025, arXiv 2502.00333) binarises all but its
first and last convolution: a layer K has, next to K.weight and K.bias, RPReLU's K.relu.* if it is a
convolution, and the branches K.skip_connection.* (sparse) and K.lora.* (low rank) unless its stride
is 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from ...errors import CheckpointError
from ..base import Parameter
from ..options import check_whole_numbers
from ..resshift.options import StagedOptions
from ..resshift.vq import COLORS, VqConfig

__all__ = ["BiMaCoSrConfig", "Block", "UnetConfig", "UnetLayer", "blocks", "layers", "parameters"]

_MAX_SIDE, _MAX_CHANNELS, _MAX_MULT, _MAX_LEVELS = 1 << 12, 1 << 12, 32, 7


@dataclass(frozen=True)
class UnetConfig(StagedOptions):
    """Options of the network, by their published names.

    image_size             nominal side of a latent, a power of 2 times the lowest level's
    model_channels, channel_mult  channels of the highest level, and each level's factor
    num_res_blocks         of each level's encoder; the decoder has one more
    attention_resolutions  nominal sides of the levels that have stages; the middle always has one
    swin_embed_dim, swin_depth, num_head_channels, mlp_ratio  of every stage
    window_size            side of attention's windows, smaller where the nominal map is
    autoencoder            options of the autoencoder, whose latents it predicts
    """

    network: ClassVar[str] = "resshift-unet"
    rank: ClassVar[int] = 0  # of a binary layer's low-rank branch

    image_size: int = 64
    model_channels: int = 160
    channel_mult: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)
    attention_resolutions: tuple[int, ...] = (64, 32, 16, 8)
    swin_embed_dim: int = 192
    swin_depth: int = 2
    num_head_channels: int = 32
    window_size: int = 8
    mlp_ratio: float = 4.0
    autoencoder: VqConfig = field(default_factory=VqConfig)

    def __post_init__(self) -> None:
        check_whole_numbers(self, image_size=_MAX_SIDE, model_channels=_MAX_CHANNELS,
                            swin_embed_dim=_MAX_CHANNELS, swin_depth=64,
                            num_head_channels=_MAX_CHANNELS, window_size=64)
        for name, limit, most in (("channel_mult", _MAX_MULT, _MAX_LEVELS),
                                  ("num_res_blocks", 16, _MAX_LEVELS),
                                  ("attention_resolutions", _MAX_SIDE, 64)):
            values = getattr(self, name)
            if (not isinstance(values, (list, tuple)) or len(values) > most
                    or any(type(value) is not int or not 1 <= value <= limit for value in values)):
                raise CheckpointError(f"network option {name} must be a list of at most {most} "
                                      f"whole numbers from 1 to {limit}")
            object.__setattr__(self, name, tuple(values))
        ratio = self.mlp_ratio
        if (isinstance(ratio, bool) or not isinstance(ratio, (int, float))
                or not 0 < ratio <= _MAX_MULT):
            raise CheckpointError(f"network option mlp_ratio must be a number above 0, at most "
                                  f"{_MAX_MULT}")
        object.__setattr__(self, "mlp_ratio", float(ratio))
        object.__setattr__(self, "autoencoder", VqConfig.from_any(
            self.autoencoder, "network option autoencoder"))
        self._check_together()

    def _check_together(self) -> None:
        if not self.channel_mult or len(self.num_res_blocks) != len(self.channel_mult):
            raise CheckpointError("network options channel_mult and num_res_blocks differ in "
                                  "length or are empty; give one number for each level")
        lowest = self.image_size >> (self.levels - 1)
        if lowest << (self.levels - 1) != self.image_size:
            raise CheckpointError(f"network option image_size {self.image_size} is not divisible "
                                  f"by {1 << (self.levels - 1)}, as its {self.levels} levels ask "
                                  "for")
        if self.swin_embed_dim % self.num_head_channels:
            raise CheckpointError(f"network option swin_embed_dim {self.swin_embed_dim} is no "
                                  f"multiple of num_head_channels {self.num_head_channels}")
        for name, channels in (("swin_embed_dim", self.swin_embed_dim),
                               ("model_channels", self.model_channels)):
            if channels % 32:
                raise CheckpointError(f"network option {name} is {channels}; it must be a multiple "
                                      "of 32, for GroupNorms of 32 groups")
        if self.hidden < 1:
            raise CheckpointError(f"network option mlp_ratio {self.mlp_ratio} leaves no channels")

    def staged(self, level: int) -> bool:
        """Whether encoder and decoder have a stage at a level."""
        return self.image_size >> level in self.attention_resolutions

    @property
    def size_multiple(self) -> int:
        """The sides of a latent are multiples of it: levels with stages are cut into windows."""
        last = self.levels - 1
        return math.lcm(1 << last, *(self.level(level).window << level
                                     for level in range(self.levels)
                                     if level == last or self.staged(level)))


@dataclass(frozen=True)
class BiMaCoSrConfig(UnetConfig):
    """Options of the binary form; ``rank``: of every layer's low-rank branch."""

    network: ClassVar[str] = "bimacosr"

    rank: int = 8  # type: ignore[misc]  # an option here, fixed at 0 in the full-precision form

    def __post_init__(self) -> None:
        check_whole_numbers(self, rank=1024)
        super().__post_init__()


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
