"""The blocks of a BI-DiffSR network in order of execution, and its parameters by name.

The torch network, the checkpoint reader and the graph builder all use this list, so the structure
of the network is written once.

Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (NeurIPS 2024,
arXiv 2406.05723). Its options are ``config.NetworkConfig``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from ..base import Parameter
from .binarizers import CFB, NONE, PER_CHANNEL, PER_INPUT, PUBLISHED
from .config import NetworkConfig

__all__ = ["Block", "TIME_EXPANSION", "binary_layers", "blocks", "each_parameter", "int8_layers",
           "parameters"]

TIME_EXPANSION = 4  # the time embedding's hidden layer is this many times inner_channel


@dataclass(frozen=True)
class Block:
    """One block of the network in order of execution.

    kind      stem | residual | down | up | fusion | head
    name      prefix of its parameters in this project ("encoder.3")
    published prefix of its parameters in published checkpoints ("downs.3")
    channels  channels of its input (a fusion has two inputs of this many)
    level     0 at full resolution
    binary    whether its convolutions are binary layers
    attention whether self-attention follows (residual blocks only)
    single    whether it is one binary layer with BiDense's bypass instead of two layers (CP-Down,
              CP-Up and CS-Fusion only)
    """

    kind: str
    name: str
    published: str
    channels: int
    level: int
    binary: bool
    attention: bool = False
    single: bool = False

    @property
    def pushes_skip(self) -> bool:
        """Whether its output is kept for a fusion of the decoder."""
        return self.kind in ("stem", "down") or (
            self.kind == "residual" and self.name.startswith("encoder."))

    @property
    def convolutions(self) -> tuple[tuple[str, int, int], ...]:
        """(name, Cin, Cout) of each of its convolutions, for all kinds but stem and head."""
        channels = self.channels
        if self.single:
            sizes = {"fusion": (2 * channels, channels), "down": (channels, channels // 2),
                     "up": (channels, 2 * channels)}[self.kind]
            return ((f"{self.name}.conv1", *sizes),)
        if self.kind == "down":  # each has half of the channels
            channels //= 2
        return tuple((f"{self.name}.conv{half}", channels, channels) for half in (1, 2))

    @property
    def kernel_size(self) -> int:
        return 1 if self.kind == "fusion" else 3


def blocks(config: NetworkConfig) -> list[Block]:
    """Every block of the network, in order of execution (paper, figure 2; published code)."""
    return list(_blocks(config))


def _blocks(config: NetworkConfig) -> Iterator[Block]:
    def resolution(level: int) -> int:
        return config.image_size >> level

    has_binary = config.binarizer != NONE
    cfb = config.shortcut == CFB
    yield Block("stem", "stem", "downs.0", config.in_channel, 0, binary=False)
    index = 1
    for level in range(config.levels):
        channels = config.channels(level)
        for _ in range(config.res_blocks):
            yield Block("residual", f"encoder.{index}", f"downs.{index}", channels, level,
                        has_binary, resolution(level) in config.attn_res)
            index += 1
        if level < config.levels - 1:
            yield Block("down", f"encoder.{index}", f"downs.{index}", channels, level, has_binary,
                        single=cfb)
            index += 1
    last = config.levels - 1
    for index in range(2):
        yield Block("residual", f"middle.{index}", f"mid.{index}", config.channels(last), last,
                    has_binary, attention=index == 0)
    index = 0
    for level in reversed(range(config.levels)):
        channels = config.channels(level)
        binary = has_binary and resolution(level) not in config.fp_res
        for _ in range(config.res_blocks + 1):
            yield Block("fusion", f"decoder.{index}", f"ups.{index}", channels, level, binary,
                        single=cfb and binary)
            yield Block("residual", f"decoder.{index + 1}", f"ups.{index + 1}", channels, level,
                        binary, resolution(level) in config.attn_res)
            index += 2
        if level > 0:
            yield Block("up", f"decoder.{index}", f"ups.{index}", channels, level, has_binary,
                        single=cfb)
            index += 1
    yield Block("head", "head", "final_conv", config.channels(0), 0, binary=False)


def binary_layers(config: NetworkConfig) -> list[str]:
    """Names of all binary convolutions, in order of execution."""
    kind = config.binary_layers
    return [node for block in blocks(config) if block.binary
            for name, _, _ in block.convolutions for node in kind.nodes(name)]


def int8_layers(config: NetworkConfig) -> dict[str, int]:
    """The full-precision convolutions that may be int8, ``{name: output channels}``: those of
    residual blocks, whose input is normalised. A CS-Fusion reads two maps of unlike ranges, which
    one scale for both serves badly; the first and the last layer, CP-Down, CP-Up and attention stay
    full precision too."""
    return {name: outputs for block in blocks(config)
            if block.kind == "residual" and not block.binary
            for name, _, outputs in block.convolutions}


def parameters(config: NetworkConfig) -> dict[str, Parameter]:
    """``{name: Parameter}`` of every parameter, in order of execution.

    Names of a BIConv ``X``: ``X.weight`` (Cout, Cin, k, k) latent float weights; ``X.threshold``
    (K, Cin) TaR, added before the sign; ``X.shift_in``, ``X.slope``, ``X.shift_out`` (K, Cout) TaA,
    the parameters of RPReLU. K is ``dynamic_group``. Layers of other binarizers have ``X.weight``
    and the vectors of ``Binarizer``; their published keys contain the binarizer's name. A network
    for several upscaling factors has a Linear next to each norm of a residual block, see
    ``scale_norm``; its keys are ours.
    """
    return dict(_parameters(config))


@functools.lru_cache(maxsize=4)
def _parameters(config: NetworkConfig) -> tuple[tuple[str, Parameter], ...]:
    return tuple(each_parameter(config))


def each_parameter(config: NetworkConfig) -> Iterator[tuple[str, Parameter]]:
    """``parameters`` one by one."""
    inner = config.inner_channel
    wide = inner * TIME_EXPANSION
    yield from _affine("time_embedding.linear1", "timestep_level_mlp.1", (wide, inner))
    yield from _affine("time_embedding.linear2", "timestep_level_mlp.3", (inner, wide))
    for block in _blocks(config):
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
            for half, convolution in enumerate(block.convolutions, 1):
                inside = f"{key}.res_block.block{half}"
                yield from _affine(f"{name}.norm{half}", f"{inside}.block.0", (channels,))
                if config.scales:
                    yield from _affine(f"{name}.scale{half}", f"{inside}.scale",
                                       (2 * channels, inner))
                yield from _convolution(config, block, *convolution, f"{inside}.conv")
            if block.attention:
                yield from _affine(f"{name}.attention.norm", f"{key}.attn.norm", (channels,))
                yield (f"{name}.attention.qkv.weight",
                       Parameter((3 * channels, channels, 1, 1), (f"{key}.attn.qkv.weight",)))
                yield from _affine(f"{name}.attention.out", f"{key}.attn.out",
                                   (channels, channels, 1, 1))
        else:
            inside = "biconv_" if block.kind == "fusion" else "biconv"
            for half, convolution in enumerate(block.convolutions, 1):
                yield from _convolution(config, block, *convolution, f"{key}.{inside}{half}")


def _affine(name: str, key: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Parameter]]:
    yield f"{name}.weight", Parameter(shape, (f"{key}.weight",))
    yield f"{name}.bias", Parameter(shape[:1], (f"{key}.bias",))


def _convolution(config: NetworkConfig, block: Block, name: str, inputs: int, outputs: int,
                 key: str) -> Iterator[tuple[str, Parameter]]:
    shape, kind = (outputs, inputs, block.kernel_size, block.kernel_size), config.binary_layers
    if not block.binary:
        yield from _affine(name, key, shape)
        return
    if kind.name != PUBLISHED:
        yield f"{name}.weight", Parameter(shape, (f"{key}.{kind.key}.weight",), binary=True,
                                          planes=kind.bits[0])
        for part, extent in kind.vectors:
            size = {PER_INPUT: inputs, PER_CHANNEL: outputs}.get(extent, 1)
            yield f"{name}.{part}", Parameter((size,), (f"{key}.{kind.name}.{part}",))
        return
    yield f"{name}.weight", Parameter(shape, (f"{key}.binary_conv.weight",), binary=True)
    for ours, theirs in (("threshold", "TaR.dynamic_move_{}.bias"),
                         ("shift_in", "TaA.dynamic_relu_{}.pr_bias0.bias"),
                         ("slope", "TaA.dynamic_relu_{}.pr_prelu.weight"),
                         ("shift_out", "TaA.dynamic_relu_{}.pr_bias1.bias")):
        keys = tuple(f"{key}.{theirs.format(group)}" for group in range(config.dynamic_group))
        size = inputs if ours == "threshold" else outputs
        yield f"{name}.{ours}", Parameter((config.dynamic_group, size), keys, grouped=True)
