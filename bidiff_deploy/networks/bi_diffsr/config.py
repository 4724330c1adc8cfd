"""The options of BI-DiffSR, under the names that published option files use.

Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (NeurIPS 2024,
arXiv 2406.05723), and the published option files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import CheckpointError
from ..base import MAX_SCALE
from ..options import check_whole_numbers, options_from
from .binarizers import CFB, IDENTITY, MAX_BITS, NONE, PUBLISHED, Binarizer, find_binarizer

MAX_CHANNELS = 1 << 14
MAX_LEVELS = 8
MAX_LISTED = 64  # levels that an option may list
PUBLISHED_ATTENTION = (512 + 13) * 32 ** 4
MAX_ATTENTION = 4000 * PUBLISHED_ATTENTION
MAX_PRECONDITIONED = 4000  # time steps
MAX_VECTORS = 1 << 16  # levels x blocks x groups; of the published network 60


@dataclass(frozen=True)
class NetworkConfig:
    """Options of one noise predictor; the defaults are those of the published x2 and x4 models.

    ``channel_mults`` doubles from level to level, because CP-Down doubles the channels.
    ``attn_res`` and ``fp_res`` are resolutions, counted from ``image_size`` at level 0:
    self-attention follows the residual blocks at ``attn_res``; the decoder is full precision at
    ``fp_res``. They only name levels: a network runs at any size.

    ``binarizer``: how binary layers binarise, one of ``binarizers.BINARIZERS``. Binarizers without
    groups set ``dynamic_group`` to 1; ``none``, the full-precision counterpart, empties ``fp_res``.
    ``alignment``: the factor k of binarizer ``bbcu`` at 64 channels. ``shortcut``: that of binary
    layers. ``identity`` needs as many outputs as inputs, which is why CP-Down, CP-Up and CS-Fusion
    are two layers each; with ``cfb``, BiDense's channel-adaptive bypass, they are one layer each,
    whose input and output differ in channels. ``scales``: the upscaling factors of a network for
    several, ascending, whose norms depend on the factor (``scale_norm``); empty for a network of
    one. ``weight_bits``, ``activation_bits``: of binarizer ``dorefa``, from 1 to 4.
    ``preconditioning``: the deviation of photos in [0, 1] from their enlarged low-resolution
    images, from which the network's output is scaled (``preconditioning``); 0: it is the noise
    itself. These seven are not published options; ``to_dict`` omits them if they are the published
    network's, whose files have none of them.
    """

    network: ClassVar[str] = "bi-diffsr"

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
    binarizer: str = PUBLISHED
    alignment: float = 1.0
    shortcut: str = IDENTITY
    scales: tuple[int, ...] = ()
    weight_bits: int = 1
    activation_bits: int = 1
    preconditioning: float = 0.0

    def __post_init__(self) -> None:
        for field in ("channel_mults", "attn_res", "fp_res", "scales"):
            value = getattr(self, field)
            if isinstance(value, int):
                value = (value,)
            if field == "scales" and not (isinstance(value, (list, tuple))
                                          and all(type(v) is int for v in value)):
                raise CheckpointError(f"network option scales={value!r:.80} must be a list of "
                                      "whole numbers")
            if len(value) > MAX_LISTED:
                raise CheckpointError(f"network option {field} has {len(value)} values; at most "
                                      f"{MAX_LISTED} can be used")
            object.__setattr__(self, field, tuple(int(v) for v in value))
        check_whole_numbers(self, **dict.fromkeys(
            ("in_channel", "out_channel", "inner_channel", "norm_groups", "res_blocks",
             "image_size", "total_step", "dynamic_group"), 1 << 20))
        vectors = len(self.channel_mults) * (self.res_blocks + 1) * self.dynamic_group
        if vectors > MAX_VECTORS:
            raise CheckpointError(
                f"network options res_blocks={self.res_blocks} and dynamic_group="
                f"{self.dynamic_group} make {vectors} sets of thresholds; at most {MAX_VECTORS} "
                "can be read")
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
        if self._attention() > MAX_ATTENTION:
            raise CheckpointError(
                f"network option attn_res={list(self.attn_res)}: attention in images of 256x256 "
                f"would take more than {MAX_ATTENTION // PUBLISHED_ATTENTION} times as long as the "
                "published network's; name smaller resolutions")
        if not 0.0 <= float(self.dropout) < 1.0:
            raise CheckpointError(f"network option dropout={self.dropout!r} must be in [0, 1)")
        if isinstance(self.alignment, bool) or not 1e-3 <= float(self.alignment) <= 1e6:
            raise CheckpointError(
                f"network option alignment={self.alignment!r} must be from 0.001 to 1000000")
        object.__setattr__(self, "alignment", float(self.alignment))
        if isinstance(self.preconditioning, bool) or not (
                self.preconditioning == 0 or 1e-3 <= float(self.preconditioning) <= 1):
            raise CheckpointError(f"network option preconditioning={self.preconditioning!r} must "
                                  "be 0 or from 0.001 to 1")
        object.__setattr__(self, "preconditioning", float(self.preconditioning))
        # Beyond, what is not known of the noise at the last timestep is below float32's precision.
        if self.preconditioning and self.total_step > MAX_PRECONDITIONED:
            raise CheckpointError(f"network option preconditioning needs total_step of at most "
                                  f"{MAX_PRECONDITIONED}, not {self.total_step}")
        if self.preconditioning and self.in_channel != 2 * self.out_channel:
            raise CheckpointError("network option preconditioning needs a condition of as many "
                                  "channels as the prediction: in_channel of twice out_channel")
        if self.shortcut not in (IDENTITY, CFB):
            raise CheckpointError(f"network option shortcut={self.shortcut!r} is not known; it is "
                                  f"{IDENTITY} or {CFB}")
        for field in ("weight_bits", "activation_bits"):
            self._check_bits(field)
        if not self.binary_layers.grouped:
            object.__setattr__(self, "dynamic_group", 1)
        if self.binarizer == NONE:
            object.__setattr__(self, "fp_res", ())
        if self.binarizer != "bbcu":
            object.__setattr__(self, "alignment", 1.0)
        if self.binarizer == NONE or (len(mults) == 1 and self.image_size in self.fp_res):
            object.__setattr__(self, "shortcut", IDENTITY)  # no binary layer changes channels
        if list(self.scales) != sorted(set(self.scales)) or len(self.scales) == 1 or any(
                not 2 <= scale <= MAX_SCALE for scale in self.scales):
            raise CheckpointError(f"network option scales={list(self.scales)} must be two or more "
                                  f"ascending whole numbers from 2 to {MAX_SCALE}")
        if self.scales and self.inner_channel < 4:
            raise CheckpointError("network option scales needs inner_channel of 4 or more")
        if self.dynamic_group > self.total_step:
            raise CheckpointError(
                f"network option dynamic_group={self.dynamic_group} must be at most "
                f"total_step={self.total_step}")

    def _check_bits(self, field: str) -> None:
        value = getattr(self, field)
        if type(value) is not int or not 1 <= value <= MAX_BITS:
            raise CheckpointError(
                f"network option {field}={value!r} must be a whole number from 1 to {MAX_BITS}: "
                "a layer has a binary convolution for each bit of weights and bit of activations, "
                "and with more bits they take longer than one convolution in float32")

    def _attention(self) -> int:
        """Time of attention in an image of 256x256, in float32 multiply-accumulates: that of every
        pair of positions, of which a softmax takes as long as 13 channels."""
        total = 0
        for level in range(self.levels):
            times = (2 * self.res_blocks + 1) * (self.image_size >> level in self.attn_res)
            times += level == self.levels - 1  # the middle
            total += times * (self.channels(level) + 13) * (256 * 256 >> 2 * level) ** 2
        return total

    @classmethod
    def from_dict(cls, options: Mapping[str, Any],
                  origin: str = "network options") -> NetworkConfig:
        """Config from a mapping of option names; ``origin`` names the mapping in errors."""
        return options_from(cls, options, origin)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values, tuples as lists."""
        later = {"binarizer": PUBLISHED, "alignment": 1.0, "shortcut": IDENTITY,
                 "scales": (), "weight_bits": 1, "activation_bits": 1,
                 "preconditioning": 0.0}
        return {key: list(value) if isinstance(value, tuple) else value
                for key, value in dataclasses.asdict(self).items()
                if key not in later or value != later[key]}

    @property
    def binary_layers(self) -> Binarizer:
        """The binarizer of the binary layers. Raises CheckpointError for an unknown name, and for
        several bits of a binarizer that has one."""
        return find_binarizer(self.binarizer, self.weight_bits, self.activation_bits)

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
