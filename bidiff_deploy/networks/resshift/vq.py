"""The VQ autoencoder of the ResShift family: options, layers in order of execution, recognition.

Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021, arXiv
2012.09841, in the form of latent-diffusion's published models: one attention block in the middle of
encoder and decoder, none elsewhere. A latent is what ``quant_conv`` returns, not quantised; the
decoder begins with the nearest code.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import CheckpointError, listed
from ..base import Parameter, Shapes
from ..options import check_whole_numbers, options_from

__all__ = ["BLOCKS", "COLORS", "EPSILON", "FOREIGN", "PREFIX", "PUBLISHED", "SIDES", "VqConfig",
           "VqLayer", "layers", "parameters", "recognise"]

COLORS = 3
EPSILON = 1e-6  # of its GroupNorms; those of the networks have 1e-5
PREFIX = "vq."  # of its parameters' names; their published keys have the one below
PUBLISHED = "autoencoder."
SIDES = 4  # the sides of a latent are multiples of it
# Attention's weights are computed in so many blocks of positions, one after the other: all those of
# an image of 1024x1024 are 17 GB.
BLOCKS = SIDES ** 2
# Published files of latent-diffusion also have what the autoencoder was trained with.
FOREIGN = re.compile(r"loss\.|ema_|model_ema\.")
_MAX_LEVELS, _MAX_BLOCKS = 6, 16
_STEM = "encoder.conv_in.weight"


@dataclass(frozen=True)
class VqConfig:
    """Options of an autoencoder.

    channels  of the highest resolution
    mult      factor of each level's channels, highest resolution first
    blocks    residual blocks of each level of the encoder; the decoder has one more
    latent    channels of a latent
    codes     of the code book
    """

    channels: int = 128
    mult: tuple[int, ...] = (1, 2, 4)
    blocks: tuple[int, ...] = (2, 2, 2)
    latent: int = 3
    codes: int = 8192

    def __post_init__(self) -> None:
        check_whole_numbers(self, channels=1 << 12, latent=1 << 8, codes=1 << 20)
        for name, limit in (("mult", 64), ("blocks", _MAX_BLOCKS)):
            values = getattr(self, name)
            if (not isinstance(values, (list, tuple)) or not 1 <= len(values) <= _MAX_LEVELS
                    or any(type(value) is not int or not 1 <= value <= limit for value in values)):
                raise CheckpointError(f"autoencoder option {name} must be a list of 1 to "
                                      f"{_MAX_LEVELS} whole numbers from 1 to {limit}")
            object.__setattr__(self, name, tuple(values))
        if len(self.mult) != len(self.blocks):
            raise CheckpointError("autoencoder options mult and blocks differ in length; give one "
                                  "number for each level")
        if any(self.channels * factor % 32 for factor in self.mult):
            raise CheckpointError(f"autoencoder option channels is {self.channels}; each level "
                                  "must have a multiple of 32, for GroupNorms of 32 groups")

    @classmethod
    def from_any(cls, value: Any, origin: str) -> VqConfig:
        """The config, or that of the mapping that ``to_dict`` wrote. Raises CheckpointError."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{origin} must be a mapping of an autoencoder's options")
        return options_from(cls, value, origin)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    @property
    def factor(self) -> int:
        """How many times smaller than the image a latent's sides are."""
        return 1 << (len(self.mult) - 1)

    @property
    def middle(self) -> int:
        """Channels of the lowest resolution."""
        return self.channels * self.mult[-1]


@dataclass(frozen=True)
class VqLayer:
    """One part of encoder or decoder.

    kind     conv | down | up | residual | attention | head: norm, SiLU, conv
    name     prefix of its keys
    level    its input is 2^level times smaller than the image
    cin, cout  channels
    kernel   side of the convolution
    """

    kind: str
    name: str
    level: int
    cin: int
    cout: int
    kernel: int = 3


def layers(config: VqConfig, decoder: bool) -> Iterator[VqLayer]:
    """The layers of encoder or decoder, in order of execution."""
    yield from (_decoder if decoder else _encoder)(config)


def _encoder(config: VqConfig) -> Iterator[VqLayer]:
    last, cin = len(config.mult) - 1, config.channels
    yield VqLayer("conv", "encoder.conv_in", 0, COLORS, cin)
    for level, (factor, blocks) in enumerate(zip(config.mult, config.blocks)):
        for block in range(blocks):
            cout = config.channels * factor
            yield VqLayer("residual", f"encoder.down.{level}.block.{block}", level, cin, cout)
            cin = cout
        if level < last:
            yield VqLayer("down", f"encoder.down.{level}.downsample.conv", level, cin, cin)
    yield from _middle("encoder", last, cin)
    yield VqLayer("head", "encoder", last, cin, config.latent)
    yield VqLayer("conv", "quant_conv", last, config.latent, config.latent, 1)


def _decoder(config: VqConfig) -> Iterator[VqLayer]:
    last, cin = len(config.mult) - 1, config.middle
    yield VqLayer("conv", "post_quant_conv", last, config.latent, config.latent, 1)
    yield VqLayer("conv", "decoder.conv_in", last, config.latent, cin)
    yield from _middle("decoder", last, cin)
    for level in range(last, -1, -1):
        for block in range(config.blocks[level] + 1):
            cout = config.channels * config.mult[level]
            yield VqLayer("residual", f"decoder.up.{level}.block.{block}", level, cin, cout)
            cin = cout
        if level:
            yield VqLayer("up", f"decoder.up.{level}.upsample.conv", level, cin, cin)
    yield VqLayer("head", "decoder", 0, cin, COLORS)


def _middle(side: str, level: int, channels: int) -> Iterator[VqLayer]:
    for kind, part in (("residual", "block_1"), ("attention", "attn_1"), ("residual", "block_2")):
        yield VqLayer(kind, f"{side}.mid.{part}", level, channels, channels)


def parameters(config: VqConfig) -> Iterator[tuple[str, Parameter]]:
    """Its parameters, by the names that a network's have."""
    def convolution(name: str, cin: int, cout: int, k: int) -> Iterator[tuple[str, Any]]:
        yield f"{name}.weight", (cout, cin, k, k)
        yield f"{name}.bias", (cout,)

    def norm(name: str, channels: int) -> Iterator[tuple[str, Any]]:
        yield f"{name}.weight", (channels,)
        yield f"{name}.bias", (channels,)

    def every() -> Iterator[tuple[str, Any]]:
        for decoder in (False, True):
            if decoder:
                yield "quantize.embedding.weight", (config.codes, config.latent)
            for layer in layers(config, decoder):
                name, cin, cout = layer.name, layer.cin, layer.cout
                if layer.kind == "residual":
                    yield from norm(f"{name}.norm1", cin)
                    yield from convolution(f"{name}.conv1", cin, cout, 3)
                    yield from norm(f"{name}.norm2", cout)
                    yield from convolution(f"{name}.conv2", cout, cout, 3)
                    if cin != cout:
                        yield from convolution(f"{name}.nin_shortcut", cin, cout, 1)
                elif layer.kind == "attention":
                    yield from norm(f"{name}.norm", cin)
                    for part in ("q", "k", "v", "proj_out"):
                        yield from convolution(f"{name}.{part}", cin, cin, 1)
                elif layer.kind == "head":
                    yield from norm(f"{name}.norm_out", cin)
                    yield from convolution(f"{name}.conv_out", cin, cout, 3)
                else:
                    yield from convolution(name, cin, cout, layer.kernel)

    for name, shape in every():
        yield f"{PREFIX}{name}", Parameter(shape, (f"{PUBLISHED}{name}",))


def recognise(shapes: Shapes, origin: str) -> VqConfig:
    """The config that published keys imply, without the prefix ``autoencoder.``. Raises
    CheckpointError, which names ``origin``, for keys that are not an autoencoder's."""
    stem, codes = shapes.get(_STEM), shapes.get("quantize.embedding.weight")
    if stem is None or codes is None or len(stem) != 4 or len(codes) != 2 or not stem[0]:
        missing = [key for key in (_STEM, "quantize.embedding.weight") if key not in shapes]
        raise CheckpointError(
            f"{origin} is no VQ autoencoder in the published layout"
            + (f": it has no {listed(missing)}" if missing else "")
            + "; give ResShift's autoencoder_vq_f4.pth or one with its keys")
    if any(re.match(r"(en|de)coder\.(down|up)\.\d+\.attn\.", key) for key in shapes):
        raise CheckpointError(f"{origin}: the autoencoder has attention outside its middle, which "
                              "is not supported; give one like ResShift's autoencoder_vq_f4.pth")
    found: dict[int, dict[int, int]] = {}
    for key, shape in shapes.items():
        match = re.fullmatch(r"encoder\.down\.(\d{1,2})\.block\.(\d{1,2})\.conv2\.weight", key)
        if match and shape:
            found.setdefault(int(match[1]), {})[int(match[2])] = shape[0]
    if sorted(found) != list(range(len(found))) or not found or any(
            sorted(blocks) != list(range(len(blocks))) for blocks in found.values()):
        raise CheckpointError(f"{origin}: the levels or blocks of the autoencoder's encoder are "
                              "not numbered from 0; give a state dict with the published keys")
    widths = [found[level][0] for level in sorted(found)]
    if any(width % stem[0] for width in widths):
        raise CheckpointError(f"{origin}: the autoencoder's levels have {listed(map(str, widths))} "
                              f"channels, which are no multiples of its first {stem[0]}")
    return options_from(VqConfig, {
        "channels": stem[0], "mult": [width // stem[0] for width in widths],
        "blocks": [len(found[level]) for level in sorted(found)],
        "latent": codes[1], "codes": codes[0]}, origin)
