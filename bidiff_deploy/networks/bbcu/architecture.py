"""The options of a BBCU-M network, its layers in order of execution, its parameters by name.

Source: Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network" (ICLR
2023, arXiv 2210.00405), and the published code (Apache-2.0). An SRResNet without batch norm:

    x = k * image
    h = LeakyReLU(stem(x)), then 2 * blocks BIConvs, the upsampler, one BIConv at the output's size
    y = (head(LeakyReLU(h)) + bilinear(x)) / k

BIConv: RPReLU(conv(sign(h + b), alpha * sign(W))) + h, as in BI-DiffSR with one group. The
upsampler is a BIConv of channels -> channels * r^2 whose shortcut is the input with every channel
repeated r^2 times, then PixelShuffle(r), so the shortcut is nearest-neighbour upsampling. k, the
residual alignment, scales the full-precision shortcut to the range of a binary convolution's
integer sums; the paper finds 130 best for 64 channels.

With ``tail: direct``, which is not of the paper, there is no binary upsampler: the head computes
COLORS * r^2 channels at the input's size, and PixelShuffle makes the image of them (Shi et al.,
"Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
Network", CVPR 2016). Nothing is computed on maps of the output's size, which takes a third of the
time of BBCU-M.

With ``border``, which is not of the paper either, the image is continued by that many pixels on
each side, copies of its outermost, and the result is cropped. Convolutions are padded with zeros,
which changes flat colours near the image's border by a few levels; they then stay as they are.

With 64 channels and 16 blocks there are 46,147 parameters for x2 and 50,755 for x4, counted as in
the paper (binary / 32, without thresholds and RPReLU), which reports 46 K and 51 K; and 1.82 and
3.95 G operations for an image of 320x180 (the paper: 1.83 and 3.95).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...checks import whole_number
from ...errors import CheckpointError
from ..base import Parameter
from ..options import check_whole_numbers, options_from

SCALES = (2, 3, 4)
MAX_CHANNELS = 1 << 12
MAX_BLOCKS = 256
MAX_BORDER = 64
PAPER_ALIGNMENT = 130.0 / 64  # k per channel
LEAK = 0.1  # slope of both LeakyReLUs below 0
COLORS = 3
TAILS = ("binary", "direct")


@dataclass(frozen=True)
class BbcuConfig:
    """Options of one network; the defaults are those of the published BBCU-M for x2.

    Each of ``blocks`` has two BIConvs. ``alignment`` is k; 0 means the paper's, 130 / 64 per
    channel. ``tail`` is one of TAILS. ``float_layers`` convolutions of the body are full precision,
    half of them at its beginning, half at its end. ``border``: pixels by which a whole image is
    continued; crops in training are not.
    """

    network: ClassVar[str] = "bbcu"

    channels: int = 64
    blocks: int = 16
    scale: int = 2
    alignment: float = 0.0
    tail: str = TAILS[0]
    float_layers: int = 0
    border: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, channels=MAX_CHANNELS, blocks=MAX_BLOCKS)
        if isinstance(self.scale, bool) or self.scale not in SCALES:
            raise CheckpointError(f"network option scale={self.scale!r} must be one of "
                                  f"{', '.join(map(str, SCALES))}")
        if isinstance(self.float_layers, bool) or not isinstance(self.float_layers, int) or not (
                0 <= self.float_layers <= 2 * self.blocks):
            raise CheckpointError(f"network option float_layers={self.float_layers!r} must be a "
                                  f"whole number from 0 to 2 * blocks = {2 * self.blocks}")
        if self.tail not in TAILS:
            raise CheckpointError(f"network option tail={self.tail!r} must be one of "
                                  f"{', '.join(TAILS)}")
        border: Any = self.border
        if isinstance(border, float) and border.is_integer():  # stored as a tensor
            border = int(border)
        object.__setattr__(self, "border", whole_number(
            "network option border", border, 0, MAX_BORDER, error=CheckpointError))
        value = self.alignment
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (
                0 <= value <= 1e6):
            raise CheckpointError(f"network option alignment={value!r} must be a number from 0 "
                                  "to 1e6")
        object.__setattr__(self, "alignment", float(value) or PAPER_ALIGNMENT * self.channels)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], origin: str = "network options") -> BbcuConfig:
        """Config from a mapping of option names; ``origin`` names the mapping in errors."""
        return options_from(cls, options, origin)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values. Those that the published network does not have are left
        out where they are as in it, so its bundles stay the same."""
        later = {"tail": TAILS[0], "float_layers": 0, "border": 0}
        return {key: value for key, value in dataclasses.asdict(self).items()
                if key not in later or value != later[key]}

    @property
    def upsamplers(self) -> tuple[int, ...]:
        """The factor of each binary upsampler, as published: two of 2 for x4."""
        if self.tail == "direct":
            return ()
        return (2, 2) if self.scale == 4 else (self.scale,)

    @property
    def reach(self) -> int:
        """How many low-resolution pixels around its own an output pixel can depend on.

        Every 3x3 convolution adds one pixel of its map, 1 / factor input pixels; the bilinear
        shortcut depends on 1.
        """
        pixels = sum(1 / layer.factor for layer in layers(self))
        return math.ceil(pixels) + 1  # sub-pixels of one input pixel are up to one pixel apart


@dataclass(frozen=True)
class Layer:
    """One convolution, 3x3 with zero padding, in order of execution.

    kind       stem | body | up | refine | head
    name       prefix of its parameters in this project ("body.3")
    published  prefix of its parameters in published checkpoints ("body.1.body.1")
    cin, cout  channels of its weights
    factor     height and width of its map, over those of the input image
    """

    kind: str
    name: str
    published: str
    cin: int
    cout: int
    factor: int
    binary: bool = False

    @property
    def upsampling(self) -> int:
        """r of an upsampler, 1 for other layers."""
        return math.isqrt(self.cout // self.cin) if self.kind == "up" else 1


def layers(config: BbcuConfig) -> list[Layer]:
    """Every convolution of the network, in order of execution."""
    wide = config.channels
    found = [Layer("stem", "stem", "conv_first", COLORS, wide, 1)]
    binary = range((config.float_layers + 1) // 2, 2 * config.blocks - config.float_layers // 2)
    found += [Layer("body", f"body.{index}", f"body.{index // 2}.body.{index % 2}", wide, wide, 1,
                    index in binary) for index in range(2 * config.blocks)]
    factor = 1
    for index, r in enumerate(config.upsamplers):
        found.append(Layer("up", f"up.{index}", f"upconv{index + 1}", wide, wide * r * r, factor,
                           True))
        factor *= r
    out = COLORS * (config.scale // factor) ** 2
    if config.tail == "binary":
        found.append(Layer("refine", "refine", "conv_hr", wide, wide, factor, True))
    found.append(Layer("head", "head", "conv_last", wide, out, factor))
    return found


def winograd_layers(config: BbcuConfig) -> list[Layer]:
    """The layers that Winograd's algorithm may compute: those in full precision, unless they are
    the first and the last alone, on whose last bits every sign and the image depend."""
    return [layer for layer in layers(config) if config.float_layers and not layer.binary]


def int8_layers(config: BbcuConfig) -> dict[str, int]:
    """The layers that a bundle in int8 quantises, and their output channels: those of the body in
    full precision. The sums of the first layer decide signs; the last in int8 costs 0.06 dB of the
    shipped models' PSNR-Y, twelve times as much as the body."""
    return {layer.name: layer.cout for layer in layers(config)
            if not layer.binary and layer.kind == "body"}


def parameters(config: BbcuConfig) -> dict[str, Parameter]:
    """``{name: Parameter}`` of every parameter, in order of execution.

    Names of a BIConv ``X`` are those of BI-DiffSR: ``X.weight`` (Cout, Cin, 3, 3), and, with one
    group, ``X.threshold`` (1, Cin), ``X.shift_in``, ``X.slope``, ``X.shift_out`` (1, Cout).
    """
    found: dict[str, Parameter] = {}
    for layer in layers(config):
        shape = (layer.cout, layer.cin, 3, 3)
        if not layer.binary:
            found[f"{layer.name}.weight"] = Parameter(shape, (f"{layer.published}.weight",))
            found[f"{layer.name}.bias"] = Parameter(shape[:1], (f"{layer.published}.bias",))
            continue
        found[f"{layer.name}.weight"] = Parameter(
            shape, (f"{layer.published}.binary_conv.weight",), binary=True)
        for ours, theirs, channels in (("threshold", "move0.bias", layer.cin),
                                       ("shift_in", "relu.pr_bias0.bias", layer.cout),
                                       ("slope", "relu.pr_prelu.weight", layer.cout),
                                       ("shift_out", "relu.pr_bias1.bias", layer.cout)):
            found[f"{layer.name}.{ours}"] = Parameter(
                (1, channels), (f"{layer.published}.{theirs}",), grouped=True)
    return found
