"""Options of a DiT-SR network from the keys and shapes of its checkpoint.

Tensors show everything but the nominal size, which decides where windows are shifted: it is in the
published buffers ``attn_mask``, and only a file without these leaves it to the options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError, listed
from ..base import Shapes
from ..options import options_from
from ..resshift.vq import VqConfig
from .architecture import DitSrConfig, blocks

__all__ = ["is_dit_sr", "recognise"]

_MARK = re.compile(r"middle_block\.0\.blocks\.\d+\.adaLN_scale_msa\.1\.weight")
_TIME, _STEM = "time_embed.0.weight", "input_blocks.0.0.weight"
_MASK = re.compile(r"((?:input_blocks|output_blocks)\.\d{1,3}\.\d)\.blocks\.\d{1,3}\.attn_mask")
_USUAL_SIZE, _MAX_SIDE = 64, 1 << 12
_REMEDY = "give a state dict with the published keys of DiT-SR"


def is_dit_sr(shapes: Shapes) -> bool:
    """Whether keys contain the modulation by which DiT-SR differs from ResShift's network."""
    return any(map(_MARK.fullmatch, shapes))


def recognise(shapes: Shapes, given: Mapping[str, Any], autoencoder: VqConfig,
              origin: str) -> tuple[DitSrConfig, list[str]]:
    """See ``Network.recognise``; ``shapes``: of the network alone."""
    _refuse_variants(shapes, origin)
    derived, levels = _derived(shapes, origin)
    assumptions = []
    size = _nominal_size(shapes, derived, levels, origin)
    if size is None and "image_size" not in given:
        size = _USUAL_SIZE
        assumptions.append(f"image_size = {size}, the published nominal size of a latent: the file "
                           "has no attn_mask, which would show it")
    if size is not None:
        derived["image_size"] = size
    else:
        size = options_from(DitSrConfig, {**derived, **given}, origin).image_size
    derived["attention_resolutions"] = [size >> level for level in levels]
    derived["autoencoder"] = autoencoder
    config = options_from(DitSrConfig, {**derived, **given}, origin)
    found = config.to_dict()
    for key, value in options_from(DitSrConfig, {**found, **derived}, origin).to_dict().items():
        if key == "attention_resolutions":  # an option may list resolutions that no level has
            value, stated = ([side for side in sides if side in _sides(config)]
                             for sides in (value, found[key]))
            same = sorted(value) == sorted(stated)
        else:
            same = found[key] == value
        if not same:
            raise CheckpointError(f"{origin}: the options say {key}={found[key]}, but the "
                                  f"checkpoint's tensors have {key}={value}; use the options it "
                                  "was trained with")
    return config, assumptions


def _sides(config: DitSrConfig) -> list[int]:
    return [config.image_size >> level for level in range(config.levels)]


def _refuse_variants(shapes: Shapes, origin: str) -> None:
    """Raises CheckpointError for parts of the published code that this package does not have."""
    for part, words in (("feature_extractor.", "the stem of the face model, whose condition is "
                                               "larger than a latent"),
                        ("patch_embed.norm.", "norms in its patch embeddings")):
        if any(part in key for key in shapes):
            raise CheckpointError(f"{origin} is a DiT-SR with {words}, which is not supported; "
                                  "give the network for real-world images or its lite variant")


def _derived(shapes: Shapes, origin: str) -> tuple[dict[str, Any], list[int]]:
    """Options that tensors show, and the levels that have stages."""
    def shape(key: str, rank: int) -> tuple[int, ...]:
        found = shapes.get(key)
        if found is None or len(found) != rank or 0 in found:
            what = "it has no" if found is None else f"the shape {tuple(found)} is not that of"
            raise CheckpointError(f"{origin} is no DiT-SR: {what} {key}; {_REMEDY}")
        return found

    channels = shape(_TIME, 2)[1]
    widths = [shape(_STEM, 4)[0]]
    while (key := f"input_blocks.{2 * len(widths)}.0.op.weight") in shapes:
        widths.append(shape(key, 4)[0])
    if any(width % channels for width in widths):
        raise CheckpointError(f"{origin}: its levels have {listed(map(str, widths))} channels, "
                              f"which are no multiples of model_channels, {channels}")
    middle = "middle_block.0"
    numbers = {int(match[1]) for key in shapes if (match := re.match(
        r"middle_block\.0\.blocks\.(\d{1,3})\.", key))}
    if numbers != set(range(len(numbers))):
        raise CheckpointError(f"{origin}: the blocks of {middle} are not numbered from 0; "
                              f"{_REMEDY}")
    width = shape(f"{middle}.patch_embed.proj.weight", 4)[0]
    hidden = shape(f"{middle}.blocks.0.mlp.fc1.weight", 4)[0]
    heads = shape(f"{middle}.blocks.0.attn.relative_position_bias_table", 2)[1]
    if width % heads:
        raise CheckpointError(f"{origin}: {width} channels are not divisible by {heads} heads")
    windows = [_window(found, key, origin) for key, found in shapes.items()
               if key.endswith(".attn.relative_position_bias_table")]
    levels = [level for level in range(len(widths))
              if f"input_blocks.{1 + 2 * level}.0.patch_embed.proj.weight" in shapes]
    return {"model_channels": channels, "channel_mult": [w // channels for w in widths],
            "swin_embed_dim": width, "swin_depth": len(numbers),
            "num_head_channels": width // heads, "window_size": max(windows),
            "mlp_ratio": hidden / width}, levels


def _window(shape: tuple[int, ...], key: str, origin: str) -> int:
    """The side of the windows whose bias table has this shape."""
    side = math.isqrt(shape[0]) if len(shape) == 2 else 0
    if not side % 2 or side * side != shape[0]:
        raise CheckpointError(f"{origin}: {key} has the shape {tuple(shape)}, which is no table of "
                              f"a square window; {_REMEDY}")
    return (side + 1) // 2


def _nominal_size(shapes: Shapes, derived: Mapping[str, Any], levels: list[int],
                  origin: str) -> int | None:
    """The side of a latent that the masks were made for; None without masks."""
    sizes = {}
    any_size = {**derived, "image_size": _MAX_SIDE,
                "attention_resolutions": [_MAX_SIDE >> level for level in levels]}
    level_of = {block.name: block.level
                for block in blocks(options_from(DitSrConfig, any_size, origin))}
    for key, shape in shapes.items():
        match = _MASK.fullmatch(key)
        if match and len(shape) == 3 and match[1] in level_of:
            side = math.isqrt(shape[0]) * math.isqrt(shape[1])
            sizes[side << level_of[match[1]]] = key
    if len(sizes) > 1:
        raise CheckpointError(f"{origin}: {listed(sizes.values())} are masks for different sizes; "
                              f"{_REMEDY}")
    return next(iter(sizes), None)
