"""Options of the family's networks that keys and shapes show.

Tensors show everything but the nominal size, which decides where windows are shifted: it is in the
published buffers ``attn_mask``, and only a file without these leaves it to the options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import CheckpointError, listed
from ..base import Shapes
from ..options import options_from

__all__ = ["Tensors", "completed"]

_USUAL_SIZE = 64


@dataclass(frozen=True)
class Tensors:
    """The shapes of a network's checkpoint. Its methods raise CheckpointError for others.

    origin  what errors name
    title   what a file without the keys is not
    remedy  what to give instead
    """

    shapes: Shapes
    origin: str
    title: str
    remedy: str

    def refuse(self, variants: Mapping[str, str], instead: str) -> None:
        """Raise if keys have a part of the published code that this package does not have."""
        for part, words in variants.items():
            if any(part in key for key in self.shapes):
                raise CheckpointError(f"{self.origin} is a {self.title} with {words}, which is not "
                                      f"supported; give {instead}")

    def shape(self, key: str, rank: int) -> tuple[int, ...]:
        found = self.shapes.get(key)
        if found is None or len(found) != rank or 0 in found:
            what = "it has no" if found is None else f"the shape {tuple(found)} is not that of"
            raise self.error(f" is no {self.title}: {what} {key}")
        return found

    def levels(self, channels: int, widths: Sequence[int]) -> dict[str, Any]:
        """Options of the levels' channels."""
        if any(width % channels for width in widths):
            raise self.error(f": its levels have {listed(map(str, widths))} channels, which are no "
                             f"multiples of model_channels, {channels}")
        return {"model_channels": channels, "channel_mult": [w // channels for w in widths]}

    def stage(self, name: str) -> dict[str, Any]:
        """Options of every stage, of which ``name`` is one."""
        numbers = {int(match[1]) for key in self.shapes if (match := re.match(
            rf"{re.escape(name)}\.blocks\.(\d{{1,3}})\.", key))}
        if numbers != set(range(len(numbers))):
            raise self.error(f": the blocks of {name} are not numbered from 0")
        width = self.shape(f"{name}.patch_embed.proj.weight", 4)[0]
        hidden = self.shape(f"{name}.blocks.0.mlp.fc1.weight", 4)[0]
        heads = self.shape(f"{name}.blocks.0.attn.relative_position_bias_table", 2)[1]
        if width % heads:
            raise self.error(f": {width} channels are not divisible by {heads} heads")
        windows = [self._window(key, found) for key, found in self.shapes.items()
                   if key.endswith(".attn.relative_position_bias_table")]
        return {"swin_embed_dim": width, "swin_depth": len(numbers),
                "num_head_channels": width // heads, "window_size": max(windows),
                "mlp_ratio": hidden / width}

    def _window(self, key: str, shape: tuple[int, ...]) -> int:
        """The side of the windows whose bias table has this shape."""
        side = math.isqrt(shape[0]) if len(shape) == 2 else 0
        if not side % 2 or side * side != shape[0]:
            raise self.error(f": {key} has the shape {tuple(shape)}, which is no table of a square "
                             "window")
        return (side + 1) // 2

    def nominal_size(self, stages: Mapping[str, int]) -> int | None:
        """The side of a latent that the masks were made for; None without masks. ``stages``: levels
        by the stages' names."""
        sizes = {}
        for key, shape in self.shapes.items():
            name, _, rest = key.partition(".blocks.")
            if rest.endswith(".attn_mask") and len(shape) == 3 and name in stages:
                side = math.isqrt(shape[0]) * math.isqrt(shape[1])
                sizes[side << stages[name]] = key
        if len(sizes) > 1:
            raise self.error(f": {listed(sizes.values())} are masks for different sizes")
        return next(iter(sizes), None)

    def error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.origin}{text}; {self.remedy}")


def completed(cls: type[Any], derived: Mapping[str, Any], levels: Sequence[int],
              size: int | None, given: Mapping[str, Any], origin: str) -> tuple[Any, list[str]]:
    """The config, and sentences about what was assumed.

    ``cls``: the config's class, ``StagedOptions``; ``derived``: options that tensors show;
    ``levels``: those with stages; ``size``: the nominal size, if masks show it; ``given``: options
    of a file. Raises CheckpointError where these contradict the tensors.
    """
    assumptions = []
    if size is None and "image_size" not in given:
        size = _USUAL_SIZE
        assumptions.append(f"image_size = {size}, the published nominal size of a latent: the file "
                           "has no attn_mask, which would show it")
    if size is None:
        size = options_from(cls, {**derived, **given}, origin).image_size
    derived = {**derived, "image_size": size,
               "attention_resolutions": [size >> level for level in levels]}
    stated = options_from(cls, {**derived, **given}, origin).to_dict()
    config = options_from(cls, {**stated, **derived}, origin)
    sides = {size >> level for level in range(config.levels)}
    for key, shown in config.to_dict().items():
        same = stated[key] == shown
        if key == "attention_resolutions":  # options may list sides that no level has
            same = sides & set(stated[key]) == set(shown)
        if not same:
            raise CheckpointError(f"{origin}: the options say {key}={stated[key]}, but the "
                                  f"checkpoint's tensors have {key}={shown}; use the options it "
                                  "was trained with")
    return config, assumptions
