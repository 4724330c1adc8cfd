"""Options of ResShift's UNet, full precision or binary, from the keys and shapes of a checkpoint.

Tensors show everything but the nominal size, which decides where windows are shifted: it is in the
published buffers ``attn_mask``, and only a file without these leaves it to the options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ...errors import CheckpointError
from ..base import Shapes
from ..options import options_from
from ..resshift.vq import VqConfig
from .architecture import UnetConfig, blocks

__all__ = ["is_binary", "is_unet", "recognise", "unused_binary"]

_MARK = "input_blocks.1.0.in_layers.2.weight"
_BINARY_MARK = "input_blocks.1.0.in_layers.2.lora.A.weight"
_MIDDLE = "middle_block.1"
_TABLE = f"{_MIDDLE}.blocks.0.attn.relative_position_bias_table"
_MASK = re.compile(r"((?:in|out)put_blocks\.\d{1,3}\.1)\.blocks\.\d{1,3}\.attn_mask")
_USUAL_SIZE = 64
_REMEDY = "give a state dict with the published keys of ResShift, SinSR or BiMaCoSR"
_Config = TypeVar("_Config", bound=UnetConfig)


def is_unet(shapes: Shapes) -> bool:
    """Whether keys contain a residual block and the Swin stage in the middle."""
    return {_MARK, _TABLE} <= set(shapes)


def is_binary(shapes: Shapes) -> bool:
    """Whether the network is binarised by BiMaCoSR."""
    return _BINARY_MARK in shapes


def unused_binary(shapes: Shapes) -> dict[str, str]:
    """Tensors of published binary networks that nothing reads, and why."""
    found = {}
    for key in shapes:
        if key.endswith((".move0.bias", ".channel_threshold")):
            found[key] = "a shift before the sign that published code never applies"
        elif re.fullmatch(r"input_blocks\.\d{1,3}\.0\.op\.(lora|skip_connection)\..*", key):
            found[key] = "a layer of stride 2 has the mean of 2x2 pixels instead of branches"
    return found


def recognise(cls: type[_Config], shapes: Shapes, given: Mapping[str, Any], autoencoder: VqConfig,
              origin: str) -> tuple[_Config, list[str]]:
    """See ``Network.recognise``; ``cls``: the config's class; ``shapes``: of the network alone."""
    for part, words in (("feature_extractor.", "a stem for a condition that is larger than a "
                                               "latent"),
                        ("patch_embed.norm.", "norms in its patch embeddings")):
        if any(part in key for key in shapes):
            raise CheckpointError(f"{origin} is a ResShift network with {words}, which is not "
                                  "supported; give the network for real-world images")
    derived, assumptions = _derived(shapes, origin), []
    levels = derived.pop("levels")
    if is_binary(shapes):
        derived["rank"] = _shape(shapes, _BINARY_MARK, 4, origin)[0]
    derived["autoencoder"] = autoencoder
    size = _nominal_size(cls, shapes, derived, levels, origin)
    if size is None and "image_size" not in given:
        size = _USUAL_SIZE
        assumptions.append(f"image_size = {size}, the published nominal size of a latent: the file "
                           "has no attn_mask, which would show it")
    if size is not None:
        derived["image_size"] = size
    else:
        size = options_from(cls, {**derived, **given}, origin).image_size
    derived["attention_resolutions"] = [size >> level for level in levels]
    rest = dict(given)
    stated = rest.pop("attention_resolutions", None)  # may list resolutions that no level has
    sides = {size >> level for level in range(len(derived["channel_mult"]))}
    if stated is not None and sides & set(stated) != set(derived["attention_resolutions"]):
        rest["attention_resolutions"] = stated
    config = options_from(cls, {**derived, **rest}, origin)
    found, shown = config.to_dict(), options_from(cls, {**config.to_dict(), **derived},
                                                  origin).to_dict()
    for key, value in shown.items():
        if found[key] != value:
            raise CheckpointError(f"{origin}: the options say {key}={found[key]}, but the "
                                  f"checkpoint's tensors have {key}={value}; use the options it "
                                  "was trained with")
    return config, assumptions


def _derived(shapes: Shapes, origin: str) -> dict[str, Any]:
    """Options that tensors show; ``levels``: those that have stages."""
    channels = _shape(shapes, "time_embed.0.weight", 2, origin)[1]
    widths, counts, levels, count, place = [], [], [], 0, 1
    while True:
        residual, down = (f"input_blocks.{place}.0.{part}.weight"
                          for part in ("out_layers.3", "op"))
        if residual in shapes:
            count += 1
            if count == 1:
                widths.append(_shape(shapes, residual, 4, origin)[0])
                if f"input_blocks.{place}.1.patch_embed.proj.weight" in shapes:
                    levels.append(len(widths) - 1)
        elif count:
            counts.append(count)
            count = 0
            if down not in shapes:
                break
        else:
            raise CheckpointError(f"{origin} is no ResShift network: it has no {residual}; "
                                  f"{_REMEDY}")
        place += 1
    if any(width % channels for width in widths):
        raise CheckpointError(f"{origin}: the channels of its levels, "
                              f"{', '.join(map(str, widths))}, are no multiples of model_channels, "
                              f"{channels}; {_REMEDY}")
    depth = len({match[1] for key in shapes
                 if (match := re.match(rf"{re.escape(_MIDDLE)}\.blocks\.(\d{{1,3}})\.", key))})
    width = _shape(shapes, f"{_MIDDLE}.patch_embed.proj.weight", 4, origin)[0]
    hidden = _shape(shapes, f"{_MIDDLE}.blocks.0.mlp.fc1.weight", 4, origin)[0]
    heads = _shape(shapes, _TABLE, 2, origin)[1]
    if width % heads:
        raise CheckpointError(f"{origin}: {width} channels are not divisible by {heads} heads; "
                              f"{_REMEDY}")
    windows = [_window(key, found, origin) for key, found in shapes.items()
               if key.endswith(".attn.relative_position_bias_table")]
    return {"model_channels": channels, "channel_mult": [w // channels for w in widths],
            "num_res_blocks": counts, "swin_embed_dim": width, "swin_depth": depth,
            "num_head_channels": width // heads, "window_size": max(windows),
            "mlp_ratio": hidden / width, "levels": levels}


def _shape(shapes: Shapes, key: str, rank: int, origin: str) -> tuple[int, ...]:
    found = shapes.get(key)
    if found is None or len(found) != rank or 0 in found:
        what = "it has no" if found is None else f"the shape {tuple(found)} is not that of"
        raise CheckpointError(f"{origin} is no ResShift network: {what} {key}; {_REMEDY}")
    return found


def _window(key: str, shape: tuple[int, ...], origin: str) -> int:
    """The side of the windows whose bias table has this shape."""
    side = math.isqrt(shape[0]) if len(shape) == 2 else 0
    if not side % 2 or side * side != shape[0]:
        raise CheckpointError(f"{origin}: {key} has the shape {tuple(shape)}, which is no table of "
                              f"a square window; {_REMEDY}")
    return (side + 1) // 2


def _nominal_size(cls: type[UnetConfig], shapes: Shapes, derived: Mapping[str, Any],
                  levels: list[int], origin: str) -> int | None:
    """The side of a latent that the masks were made for; None without masks."""
    config = options_from(cls, {**derived, "image_size": 1024, "attention_resolutions": [
        1024 >> level for level in levels]}, origin)
    stages = {block.name: block.level for block in blocks(config) if block.kind == "stage"}
    sizes = {}
    for key, shape in shapes.items():
        match = _MASK.fullmatch(key)
        if match and len(shape) == 3 and match[1] in stages:
            sizes[math.isqrt(shape[0]) * math.isqrt(shape[1]) << stages[match[1]]] = key
    if len(sizes) > 1:
        raise CheckpointError(f"{origin}: {', '.join(sizes.values())} are masks for different "
                              f"sizes; {_REMEDY}")
    return next(iter(sizes), None)
