"""Options of a BBCU-M network from the keys and shapes of its checkpoint.

The residual alignment k is in no tensor: it comes from the given options, by default the paper's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError
from ..base import Shapes
from .architecture import COLORS, TAILS, BbcuConfig

_STEM, _HEAD, _UP = "conv_first.weight", "conv_last.weight", "upconv{}.binary_conv.weight"
_BODY = re.compile(r"body\.(\d{1,4})\.body\.([01])\.(binary_conv\.)?weight")


def is_bbcu(shapes: Shapes) -> bool:
    """Whether keys contain BBCU-M's first and last convolution, and convolutions of its body."""
    return {_STEM, _HEAD} <= set(shapes) and any(map(_BODY.fullmatch, shapes))


def recognise(shapes: Shapes, given: Mapping[str, Any],
              origin: str) -> tuple[BbcuConfig, list[str]]:
    """See ``Network.recognise``."""
    stem, head, up = (shapes.get(key) for key in (_STEM, _HEAD, _UP.format(1)))
    if any(shape is not None and len(shape) != 4 for shape in (stem, head, up)) or (
            not stem or not head or not stem[0]):
        raise CheckpointError(f"{origin}: its first convolution or upsampler is not a convolution; "
                              "give a state dict with the published keys of BBCU-M")
    body = [match for key in shapes if (match := _BODY.fullmatch(key))]
    blocks = {int(match.group(1)) for match in body}
    if not blocks or blocks != set(range(len(blocks))):
        raise CheckpointError(f"{origin}: the blocks of its body are not numbered from 0; give a "
                              "state dict with the published keys of BBCU-M")
    squared = {4: 2, 9: 3, 16: 4}.get(up[0] // stem[0] if up else head[0] // COLORS, 0)
    derived = {"channels": stem[0], "blocks": len(blocks),
               "scale": 4 if _UP.format(2) in shapes else squared,
               "tail": TAILS[0] if up else TAILS[1],
               "float_layers": sum(match.group(3) is None for match in body)}
    config = BbcuConfig.from_dict({**derived, **given}, origin)
    for key, value in derived.items():
        if getattr(config, key) != value:
            raise CheckpointError(
                f"{origin}: the options say {key}={getattr(config, key)}, but the checkpoint's "
                f"tensors have {key}={value}; use the options it was trained with")
    if given.get("alignment"):
        return config, []
    return config, [f"alignment = {config.alignment:g} (residual alignment k), the paper's 130 / "
                    "64 per channel: no tensor shows it"]
