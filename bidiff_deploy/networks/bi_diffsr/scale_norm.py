"""Norms that depend on the upscaling factor: one set of weights for several factors.

UltraPixel's scale-aware normalisation (Ren et al., NeurIPS 2024, arXiv 2407.02158; published code):
with n the norm's output and (a, b) = Linear(e) of an embedding e of the size of the image,

    y = n (1 + a) + b + n

Each of a residual block's two norms has such a Linear. UltraPixel's e is of the logarithm of the
image's area, in units of 24x24 pixels. Here the factor s stands for the area of 24x24 pixels that
are enlarged s times, since it is the factor, not the size of a photo, that decides how much detail
is missing. Once s is chosen, n (2 + a) + b is a norm again, with another weight and bias, so no
graph, kernel or engine knows of the factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .architecture import blocks
from .config import NetworkConfig

__all__ = ["at_scale", "folded", "scale_embedding"]

_SIDE = 24  # of the image whose area is the unit
_RANGE = 1e4


def scale_embedding(scale: float, width: int) -> npt.NDArray[np.float32]:
    """The embedding of an upscaling factor, float32 (width,): sines, then cosines.

    Frequency i of ``width`` / 2 is exp(-ln(1e4) i / (width / 2 - 1)), the argument 1e4 times
    sqrt(log_576((24 scale)^2)). Every operation is rounded to float32, as in torch.
    """
    half = width // 2
    value = math.sqrt(2 * math.log(_SIDE * scale) / math.log(_SIDE ** 2))
    exponent = np.arange(half, dtype=np.float32) * np.float32(-math.log(_RANGE) / (half - 1))
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    argument = (np.float32(value) * np.float32(_RANGE) * frequency).astype(np.float64)
    return np.concatenate([np.sin(argument), np.cos(argument)]).astype(np.float32)


def folded(weight: Any, bias: Any, linear: Any, offset: Any, embedding: Any) -> tuple[Any, Any]:
    """Weight and bias (C,) of the norm that equals y: arrays, or torch tensors with gradients.

    ``weight``, ``bias`` (C,): of the norm n. ``linear`` (2C, width), ``offset`` (2C,): of the
    Linear. ``embedding``: (width,).
    """
    both = (linear * embedding).sum(-1) + offset
    channels = len(weight)
    gain = 2 + both[:channels]
    return weight * gain, bias * gain + both[channels:]


def at_scale(config: NetworkConfig, state: Mapping[str, npt.NDArray[Any]],
             scale: int) -> tuple[NetworkConfig, dict[str, npt.NDArray[Any]]]:
    """The network of one of ``config.scales``: options and float parameters without a choice."""
    embedding = scale_embedding(scale, config.inner_channel).astype(np.float64)
    found = dict(state)
    for block in blocks(config):
        if block.kind != "residual":
            continue
        for half in (1, 2):
            norm, linear = f"{block.name}.norm{half}", f"{block.name}.scale{half}"
            parts = [found[f"{norm}.weight"], found[f"{norm}.bias"],
                     found.pop(f"{linear}.weight"), found.pop(f"{linear}.bias")]
            weight, bias, weights, offsets = (part.astype(np.float64) for part in parts)
            values = folded(weight, bias, weights, offsets, embedding)
            for name, value in zip(("weight", "bias"), values):
                found[f"{norm}.{name}"] = value.astype(np.float32)
    return replace(config, scales=()), found
