"""Options of a DiT-SR network from the keys and shapes of its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..base import Shapes
from ..options import options_from
from ..resshift.options import MAX_SIDE
from ..resshift.recognition import Tensors, completed
from ..resshift.vq import VqConfig
from .architecture import DitSrConfig, blocks

__all__ = ["is_dit_sr", "recognise"]

_MIDDLE = "middle_block.0"
_MARK = re.compile(rf"{re.escape(_MIDDLE)}\.blocks\.\d+\.adaLN_scale_msa\.1\.weight")
_VARIANTS = {"feature_extractor.": "the stem of the face model, whose condition is larger than a "
                                   "latent",
             "patch_embed.norm.": "norms in its patch embeddings"}


def is_dit_sr(shapes: Shapes) -> bool:
    """Whether keys contain the modulation by which DiT-SR differs from ResShift's network."""
    return any(map(_MARK.fullmatch, shapes))


def recognise(shapes: Shapes, given: Mapping[str, Any], autoencoder: VqConfig,
              origin: str) -> tuple[DitSrConfig, list[str]]:
    """See ``Network.recognise``; ``shapes``: of the network alone."""
    tensors = Tensors(shapes, origin, "DiT-SR", "give a state dict with the published keys of "
                                                "DiT-SR")
    tensors.refuse(_VARIANTS, "the network for real-world images or its lite variant")
    widths = [tensors.shape("input_blocks.0.0.weight", 4)[0]]
    while (key := f"input_blocks.{2 * len(widths)}.0.op.weight") in shapes:
        widths.append(tensors.shape(key, 4)[0])
    derived = {**tensors.levels(tensors.shape("time_embed.0.weight", 2)[1], widths),
               **tensors.stage(_MIDDLE), "autoencoder": autoencoder}
    levels = [level for level in range(len(widths))
              if f"input_blocks.{1 + 2 * level}.0.patch_embed.proj.weight" in shapes]
    large = options_from(DitSrConfig, {
        **derived, "image_size": MAX_SIDE,
        "attention_resolutions": [MAX_SIDE >> level for level in levels]}, origin)
    size = tensors.nominal_size({block.name: block.level for block in blocks(large)})
    return completed(DitSrConfig, derived, levels, size, given, origin)
