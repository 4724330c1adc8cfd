"""What a fixed timestep is to the networks of the ResShift family; export folds it into constants.

The published code computes it in float32; here the sinusoid is float32, as the networks were
trained with its rounding, and linear layers sum in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["linear", "silu", "sinusoid", "time_features"]

Array = npt.NDArray[Any]


def sinusoid(timestep: int, channels: int) -> Array:
    """Cosines, then sines, of t exp(-ln(1e4) i / half), float32 (channels,); 0 at the end of an odd
    number."""
    half = channels // 2
    exponent = np.float32(-math.log(1e4)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    argument = (np.float32(timestep) * frequency).astype(np.float64)
    found = [np.cos(argument), np.sin(argument), np.zeros(channels % 2)]
    return np.concatenate(found).astype(np.float32)


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    result: Array = x * (1 + np.tanh(x / 2)) / 2  # nothing overflows
    return result


def linear(state: Mapping[str, Array], name: str, x: Array) -> Array:
    """A linear layer of a vector, float64."""
    y: Array = state[f"{name}.weight"].astype(np.float64) @ x + state[f"{name}.bias"]
    return y


def time_features(state: Mapping[str, Array], timestep: int, channels: int) -> Array:
    """The embedding that every block reads, Linear(SiLU(Linear(sinusoid))), float64 (4 channels,).
    """
    x = sinusoid(timestep, channels).astype(np.float64)
    return linear(state, "time_embed.2", silu(linear(state, "time_embed.0", x)))
