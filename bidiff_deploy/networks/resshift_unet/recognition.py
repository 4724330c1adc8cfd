"""Options of ResShift's UNet, full precision or binary, from the keys and shapes of a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ..base import Shapes
from ..options import options_from
from ..resshift.options import MAX_SIDE
from ..resshift.recognition import Tensors, completed
from ..resshift.vq import VqConfig
from .architecture import blocks
from .config import UnetConfig

__all__ = ["is_binary", "is_unet", "recognise", "unused_binary"]

_MARK = "input_blocks.1.0.in_layers.2.weight"
_BINARY_MARK = "input_blocks.1.0.in_layers.2.lora.A.weight"
_MIDDLE = "middle_block.1"
_TABLE = f"{_MIDDLE}.blocks.0.attn.relative_position_bias_table"
_VARIANTS = {"feature_extractor.": "a stem for a condition that is larger than a latent",
             "patch_embed.norm.": "norms in its patch embeddings"}
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
    tensors = Tensors(shapes, origin, "ResShift network", "give a state dict with the published "
                                                          "keys of ResShift, SinSR or BiMaCoSR")
    tensors.refuse(_VARIANTS, "the network for real-world images")
    widths, counts, levels = _encoder(tensors)
    derived = {**tensors.levels(tensors.shape("time_embed.0.weight", 2)[1], widths),
               **tensors.stage(_MIDDLE), "num_res_blocks": counts, "autoencoder": autoencoder}
    if is_binary(shapes):
        derived["rank"] = tensors.shape(_BINARY_MARK, 4)[0]
    large = options_from(cls, {
        **derived, "image_size": MAX_SIDE,
        "attention_resolutions": [MAX_SIDE >> level for level in levels]}, origin)
    size = tensors.nominal_size({block.name: block.level for block in blocks(large)
                                 if block.kind == "stage"})
    return completed(cls, derived, levels, size, given, origin)


def _encoder(tensors: Tensors) -> tuple[list[int], list[int], list[int]]:
    """Channels and number of residual blocks of each level, and the levels that have stages."""
    widths, counts, levels, count, place = [], [], [], 0, 1
    while True:
        residual, down = (f"input_blocks.{place}.0.{part}.weight"
                          for part in ("out_layers.3", "op"))
        if residual in tensors.shapes:
            count += 1
            if count == 1:
                widths.append(tensors.shape(residual, 4)[0])
                if f"input_blocks.{place}.1.patch_embed.proj.weight" in tensors.shapes:
                    levels.append(len(widths) - 1)
        elif count:
            counts.append(count)
            count = 0
            if down not in tensors.shapes:
                return widths, counts, levels
        else:
            raise tensors.error(f" is no {tensors.title}: it has no {residual}")
        place += 1
