"""Options of a BBCU-M network from the keys and shapes of its checkpoint.

The residual alignment k is in no tensor: it comes from the given options, by default the paper's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError
from ..base import Shapes
from .architecture import BbcuConfig

_STEM, _HEAD = "conv_first.weight", "conv_last.weight"


def is_bbcu(shapes: Shapes) -> bool:
    """Whether keys contain BBCU-M's first and last convolution and an upsampler."""
    return {_STEM, _HEAD, "upconv1.binary_conv.weight"} <= set(shapes)


def recognise(shapes: Shapes, given: Mapping[str, Any],
              origin: str) -> tuple[BbcuConfig, list[str]]:
    """See ``Network.recognise``."""
    stem, up = shapes[_STEM], shapes["upconv1.binary_conv.weight"]
    if len(stem) != 4 or len(up) != 4 or not stem[0]:
        raise CheckpointError(f"{origin}: its first convolution or upsampler is not a convolution; "
                              "give a state dict with the published keys of BBCU-M")
    blocks = {int(match.group(1)) for key in shapes
              if (match := re.match(r"body\.(\d{1,4})\.body\.", key))}
    if not blocks or blocks != set(range(len(blocks))):
        raise CheckpointError(f"{origin}: the blocks of its body are not numbered from 0; give a "
                              "state dict with the published keys of BBCU-M")
    two = "upconv2.binary_conv.weight" in shapes
    squared = {4: 2, 9: 3}.get(up[0] // stem[0], 0)
    derived = {"channels": stem[0], "blocks": len(blocks), "scale": 4 if two else squared}
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
