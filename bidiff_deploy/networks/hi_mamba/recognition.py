"""Options of a Hi-Mamba network from the keys and shapes of its checkpoint.

The side of a region is in no tensor: it comes from the given options, by default 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError
from ..base import Shapes
from .architecture import COLORS, HiMambaConfig

_BLOCK = re.compile(r"groups\.(\d{1,4})\.blocks\.(\d{1,4})\.local\.scan\.log_a")
_FIRST = "groups.0.blocks.0."
_KEYS = {"shallow": "shallow.weight", "log_a": f"{_FIRST}local.scan.log_a",
         "step": f"{_FIRST}local.step.weight", "project": f"{_FIRST}project.weight",
         "head": "head.weight"}


def is_hi_mamba(shapes: Shapes) -> bool:
    """Whether keys contain the first scan, the first and the last convolution."""
    return {_KEYS["shallow"], _KEYS["log_a"], _KEYS["head"]} <= set(shapes)


def recognise(shapes: Shapes, given: Mapping[str, Any],
              origin: str) -> tuple[HiMambaConfig, list[str]]:
    """See ``Network.recognise``."""
    found = {name: shapes.get(key, ()) for name, key in _KEYS.items()}
    for name, shape in found.items():
        if len(shape) != (2 if name == "log_a" else 4) or not all(shape):
            raise CheckpointError(f"{origin}: {_KEYS[name]} is missing or has another number of "
                                  "dimensions; give a state dict with the keys of Hi-Mamba")
    places = [tuple(map(int, match.groups())) for key in shapes if (match := _BLOCK.fullmatch(key))]
    groups, blocks = (1 + max(place[axis] for place in places) for axis in (0, 1))
    if len(places) != groups * blocks:
        raise CheckpointError(f"{origin}: its groups do not have the same number of blocks; give a "
                              "state dict with the keys of Hi-Mamba")
    derived = {"channels": found["shallow"][0], "groups": groups, "blocks": blocks,
               "inner": found["log_a"][0], "states": found["log_a"][1], "rank": found["step"][1],
               "hidden": found["project"][1], "scale": math.isqrt(found["head"][0] // COLORS)}
    region = given.get("region")
    if isinstance(region, float) and region.is_integer():  # as a training run stores it
        given = {**given, "region": int(region)}
    config = HiMambaConfig.from_dict({**derived, **given}, origin)
    for key, value in derived.items():
        if getattr(config, key) != value:
            raise CheckpointError(
                f"{origin}: the options say {key}={getattr(config, key)}, but the checkpoint's "
                f"tensors have {key}={value}; use the options it was trained with")
    if region:
        return config, []
    return config, [f"region = {config.region} (pixels on a side), the paper's: no tensor shows it"]
