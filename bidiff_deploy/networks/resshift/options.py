"""What the options of the family's networks have in common: levels of stages, and limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from ...errors import CheckpointError
from ..options import check_whole_numbers
from .vq import VqConfig
from .windows import Level

__all__ = ["MAX_LEVELS", "MAX_SIDE", "StagedOptions"]

MAX_SIDE, MAX_LEVELS = 1 << 12, 7  # MAX_SIDE: of a nominal latent
_MAX_CHANNELS, _MAX_MULT, _MAX_DEPTH, _MAX_SIDES, _GROUPS = 1 << 12, 32, 64, 64, 32


class StagedOptions:
    """Base of a network's options, a dataclass with these fields."""

    attention_resolutions: tuple[int, ...]
    channel_mult: tuple[int, ...]
    image_size: int
    mlp_ratio: float
    model_channels: int
    num_head_channels: int
    swin_depth: int
    swin_embed_dim: int
    window_size: int
    autoencoder: VqConfig

    def check(self, max_window: int, **lists: tuple[int, int]) -> None:
        """Raise CheckpointError for options that no network has; lists become tuples.

        ``lists``: of further lists of whole numbers, the largest number and the largest length.
        """
        check_whole_numbers(self, image_size=MAX_SIDE, model_channels=_MAX_CHANNELS,
                            swin_embed_dim=_MAX_CHANNELS, swin_depth=_MAX_DEPTH,
                            num_head_channels=_MAX_CHANNELS, window_size=max_window)
        lists = {"channel_mult": (_MAX_MULT, MAX_LEVELS), **lists,
                 "attention_resolutions": (MAX_SIDE, _MAX_SIDES)}
        for name, (limit, most) in lists.items():
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
        if not self.channel_mult:
            raise CheckpointError("network option channel_mult is empty; give each level's factor")
        lowest = self.image_size >> (self.levels - 1)
        if lowest << (self.levels - 1) != self.image_size:
            raise CheckpointError(f"network option image_size {self.image_size} is not divisible "
                                  f"by {1 << (self.levels - 1)}, as its {self.levels} levels ask "
                                  "for")
        if self.swin_embed_dim % self.num_head_channels:
            raise CheckpointError(f"network option swin_embed_dim {self.swin_embed_dim} is no "
                                  f"multiple of num_head_channels {self.num_head_channels}")
        for name, channels in {"swin_embed_dim": self.swin_embed_dim, **self.grouped()}.items():
            if channels % _GROUPS:
                raise CheckpointError(f"network option {name} is {channels}; it must be a multiple "
                                      f"of {_GROUPS}, for GroupNorms of {_GROUPS} groups")
        if self.hidden < 1:
            raise CheckpointError(f"network option mlp_ratio {self.mlp_ratio} leaves no channels")

    def grouped(self) -> Mapping[str, int]:
        """Channels of GroupNorms outside the stages, by what they are called in an error."""
        return {"model_channels": self.model_channels}

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
