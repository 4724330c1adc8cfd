"""What a BI-DiffSR network consists of: its options, its blocks in order, its parameters by name.

The torch network, the checkpoint reader and the graph builder all walk the same list, so the
shape of the network is written down once. Nothing here needs torch.

Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (NeurIPS 2024,
arXiv 2406.05723); published option names are kept, because option files use them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from .errors import CheckpointError

MAX_CHANNELS = 1 << 14
MAX_LEVELS = 8
TIME_EXPANSION = 4  # the time embedding's hidden layer is this many times inner_channel


@dataclass(frozen=True)
class NetworkConfig:
    """Options of one noise predictor; the defaults are those of the published x2 and x4 models.

    ``channel_mults`` doubles from level to level (CP-Down doubles the channels, so nothing else
    can be built). ``attn_res`` and ``fp_res`` name resolutions, counted from ``image_size`` at
    level 0: self-attention follows the residual blocks at ``attn_res``; the decoder is full
    precision at ``fp_res``. They are names of levels: a network runs at any size.
    """

    in_channel: int = 6
    out_channel: int = 3
    inner_channel: int = 64
    norm_groups: int = 16
    channel_mults: tuple[int, ...] = (1, 2, 4, 8)
    attn_res: tuple[int, ...] = ()
    res_blocks: int = 2
    dropout: float = 0.2
    image_size: int = 256
    fp_res: tuple[int, ...] = (256, 128)
    total_step: int = 2000
    dynamic_group: int = 5

    def __post_init__(self) -> None:
        for field in ("channel_mults", "attn_res", "fp_res"):
            value = getattr(self, field)
            if isinstance(value, int):
                value = (value,)
            object.__setattr__(self, field, tuple(int(v) for v in value))
        for field in ("in_channel", "out_channel", "inner_channel", "norm_groups", "res_blocks",
                      "image_size", "total_step", "dynamic_group"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20:
                raise CheckpointError(
                    f"network option {field}={value!r} must be a positive whole number")
        mults = self.channel_mults
        if not 1 <= len(mults) <= MAX_LEVELS:
            raise CheckpointError(
                f"network option channel_mults={list(mults)} must name 1 to {MAX_LEVELS} levels")
        if mults[0] < 1 or any(b != 2 * a for a, b in zip(mults, mults[1:])):
            raise CheckpointError(
                f"network option channel_mults={list(mults)} must double from level to level, "
                "because CP-Down doubles the channels")
        if self.inner_channel % 2 or self.inner_channel * mults[-1] > MAX_CHANNELS:
            raise CheckpointError(
                f"network option inner_channel={self.inner_channel} must be even, and at most "
                f"{MAX_CHANNELS} channels wide at the last level")
        if (self.inner_channel * mults[0]) % self.norm_groups:
            raise CheckpointError(
                f"network option norm_groups={self.norm_groups} must divide "
                f"inner_channel * channel_mults[0] = {self.inner_channel * mults[0]}")
        if not 0.0 <= float(self.dropout) < 1.0:
            raise CheckpointError(f"network option dropout={self.dropout!r} must be in [0, 1)")
        if self.dynamic_group > self.total_step:
            raise CheckpointError(
                f"network option dynamic_group={self.dynamic_group} must be at most "
                f"total_step={self.total_step}")

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], origin: str = "network options") -> NetworkConfig:
        """Config from a mapping with the published option names; ``origin`` names it in errors."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise CheckpointError(
                f"{origin}: unknown network option{'s' if len(unknown) > 1 else ''} "
                f"{', '.join(map(str, unknown))}; known are {', '.join(sorted(known))}")
        try:
            return cls(**options)
        except (TypeError, ValueError, OverflowError, CheckpointError) as error:
            raise CheckpointError(f"{origin}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values, tuples as lists."""
        return {key: list(value) if isinstance(value, tuple) else value
                for key, value in dataclasses.asdict(self).items()}

    @property
    def levels(self) -> int:
        return len(self.channel_mults)

    @property
    def size_multiple(self) -> int:
        """Height and width of every input must be multiples of this."""
        return 1 << (self.levels - 1)

    def channels(self, level: int) -> int:
        return self.inner_channel * self.channel_mults[level]

    def group(self, timestep: int) -> int:
        """Index of the TaR/TaA parameter set of a timestep: clamp(int(t * K / T), 0, K - 1)."""
        return max(0, min(self.dynamic_group - 1,
                          int(timestep * self.dynamic_group / self.total_step)))


@dataclass(frozen=True)
class Block:
    """One block of the network in order of execution.

    kind      stem | residual | down | up | fusion | head
    name      prefix of its parameters in this project ("encoder.3")
    published prefix of its parameters in published checkpoints ("downs.3")
    channels  channels of its input (a fusion has two inputs of this many)
    level     0 at full resolution
    binary    whether its convolutions are BIConvs
    attention whether self-attention follows (residual blocks only)
    """

    kind: str
    name: str
    published: str
    channels: int
    level: int
    binary: bool
    attention: bool = False

    @property
    def pushes_skip(self) -> bool:
        """Whether its output is kept for a fusion of the decoder."""
        return self.kind in ("stem", "down") or (
            self.kind == "residual" and self.name.startswith("encoder."))

    @property
    def conv_channels(self) -> int:
        """Channels of each of its two convolutions (CP-Down works on halves)."""
        return self.channels // 2 if self.kind == "down" else self.channels

    @property
    def kernel_size(self) -> int:
        return 1 if self.kind == "fusion" else 3


def blocks(config: NetworkConfig) -> list[Block]:
    """Every block of the network, in order of execution (paper, figure 2; published code)."""
    def resolution(level: int) -> int:
        return config.image_size >> level

    found: list[Block] = [
        Block("stem", "stem", "downs.0", config.in_channel, 0, binary=False)]
    index = 1
    for level in range(config.levels):
        channels = config.channels(level)
        for _ in range(config.res_blocks):
            found.append(Block("residual", f"encoder.{index}", f"downs.{index}", channels, level,
                               True, resolution(level) in config.attn_res))
            index += 1
        if level < config.levels - 1:
            found.append(Block("down", f"encoder.{index}", f"downs.{index}", channels, level, True))
            index += 1
    last = config.levels - 1
    for index in range(2):
        found.append(Block("residual", f"middle.{index}", f"mid.{index}", config.channels(last),
                           last, True, attention=index == 0))
    index = 0
    for level in reversed(range(config.levels)):
        channels = config.channels(level)
        binary = resolution(level) not in config.fp_res
        for _ in range(config.res_blocks + 1):
            found.append(Block("fusion", f"decoder.{index}", f"ups.{index}", channels, level,
                               binary))
            found.append(Block("residual", f"decoder.{index + 1}", f"ups.{index + 1}", channels,
                               level, binary, resolution(level) in config.attn_res))
            index += 2
        if level > 0:
            found.append(Block("up", f"decoder.{index}", f"ups.{index}", channels, level, True))
            index += 1
    found.append(Block("head", "head", "final_conv", config.channels(0), 0, binary=False))
    return found


@dataclass(frozen=True)
class Parameter:
    """One parameter of the network.

    shape      its shape in this project
    published  the published key that holds it; a grouped one has a key per TaR/TaA group
    binary     whether only its signs and per-output-channel mean magnitude are used
    grouped    whether axis 0 is the TaR/TaA group
    """

    shape: tuple[int, ...]
    published: tuple[str, ...]
    binary: bool = False
    grouped: bool = False


def parameters(config: NetworkConfig) -> dict[str, Parameter]:
    """``{name: Parameter}`` of every parameter, in order of execution.

    Names of a BIConv ``X``: ``X.weight`` (C, C, k, k) latent float weights; ``X.threshold`` (K, C)
    TaR, added before the sign; ``X.shift_in``, ``X.slope``, ``X.shift_out`` (K, C) TaA, the
    parameters of RPReLU. K is ``dynamic_group``.
    """
    return dict(_parameters(config))


def _parameters(config: NetworkConfig) -> Iterator[tuple[str, Parameter]]:
    inner = config.inner_channel
    wide = inner * TIME_EXPANSION
    yield from _affine("time_embedding.linear1", "timestep_level_mlp.1", (wide, inner))
    yield from _affine("time_embedding.linear2", "timestep_level_mlp.3", (inner, wide))
    for block in blocks(config):
        name, key, channels = block.name, block.published, block.channels
        if block.kind == "stem":
            yield from _affine(name, key, (config.channels(0), channels, 3, 3))
        elif block.kind == "head":
            yield from _affine(f"{name}.norm", f"{key}.block.0", (channels,))
            yield from _affine(f"{name}.conv", f"{key}.block.3",
                               (config.out_channel, channels, 3, 3))
        elif block.kind == "residual":
            yield from _affine(f"{name}.time", f"{key}.res_block.timestep_func.1",
                               (channels, inner))
            for half in (1, 2):
                inside = f"{key}.res_block.block{half}"
                yield from _affine(f"{name}.norm{half}", f"{inside}.block.0", (channels,))
                yield from _convolution(config, block, f"{name}.conv{half}", f"{inside}.conv")
            if block.attention:
                yield from _affine(f"{name}.attention.norm", f"{key}.attn.norm", (channels,))
                yield (f"{name}.attention.qkv.weight",
                       Parameter((3 * channels, channels, 1, 1), (f"{key}.attn.qkv.weight",)))
                yield from _affine(f"{name}.attention.out", f"{key}.attn.out",
                                   (channels, channels, 1, 1))
        else:
            inside = "biconv_" if block.kind == "fusion" else "biconv"
            for half in (1, 2):
                yield from _convolution(config, block, f"{name}.conv{half}",
                                        f"{key}.{inside}{half}")


def _affine(name: str, key: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Parameter]]:
    yield f"{name}.weight", Parameter(shape, (f"{key}.weight",))
    yield f"{name}.bias", Parameter(shape[:1], (f"{key}.bias",))


def _convolution(config: NetworkConfig, block: Block, name: str,
                 key: str) -> Iterator[tuple[str, Parameter]]:
    channels, k = block.conv_channels, block.kernel_size
    if not block.binary:
        yield from _affine(name, key, (channels, channels, k, k))
        return
    yield f"{name}.weight", Parameter((channels, channels, k, k), (f"{key}.binary_conv.weight",),
                                      binary=True)
    for ours, theirs in (("threshold", "TaR.dynamic_move_{}.bias"),
                         ("shift_in", "TaA.dynamic_relu_{}.pr_bias0.bias"),
                         ("slope", "TaA.dynamic_relu_{}.pr_prelu.weight"),
                         ("shift_out", "TaA.dynamic_relu_{}.pr_bias1.bias")):
        keys = tuple(f"{key}.{theirs.format(group)}" for group in range(config.dynamic_group))
        yield f"{name}.{ours}", Parameter((config.dynamic_group, channels), keys, grouped=True)
