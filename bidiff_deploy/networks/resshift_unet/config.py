"""Options of ResShift's UNet and of its binary form, BiMaCoSR, by their published names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from ...errors import CheckpointError
from ..options import check_whole_numbers
from ..resshift.options import MAX_LEVELS, StagedOptions
from ..resshift.vq import VqConfig

__all__ = ["BiMaCoSrConfig", "UnetConfig"]


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
        self.check(max_window=64, num_res_blocks=(16, MAX_LEVELS))
        if len(self.num_res_blocks) != self.levels:
            raise CheckpointError("network options channel_mult and num_res_blocks differ in "
                                  "length; give one number for each level")

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
