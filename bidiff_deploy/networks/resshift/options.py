"""What the options of the family's networks have in common: levels of Swin stages."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from .vq import VqConfig
from .windows import Level

__all__ = ["StagedOptions"]


class StagedOptions:
    """Base of a network's options, a dataclass with these fields."""

    channel_mult: tuple[int, ...]
    image_size: int
    mlp_ratio: float
    model_channels: int
    num_head_channels: int
    swin_embed_dim: int
    window_size: int
    autoencoder: VqConfig

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values."""
        found = {name: list(value) if isinstance(value, tuple) else value
                 for name, value in dataclasses.asdict(cast(Any, self)).items()}
        return {**found, "autoencoder": self.autoencoder.to_dict()}

    @property
    def levels(self) -> int:
        return len(self.channel_mult)

    @property
    def hidden(self) -> int:
        """Channels inside an MLP."""
        return int(self.swin_embed_dim * self.mlp_ratio)

    @property
    def heads(self) -> int:
        return self.swin_embed_dim // self.num_head_channels

    def channels(self, level: int) -> int:
        return self.model_channels * self.channel_mult[level]

    def level(self, index: int) -> Level:
        """The windows of a level."""
        return Level.of(index, self.image_size >> index, self.window_size)
