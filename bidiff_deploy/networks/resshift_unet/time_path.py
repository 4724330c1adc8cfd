"""The time embedding at a fixed step, folded into the norms that it scales and shifts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..base import Weights
from ..resshift.time_embedding import silu, sinusoid
from .architecture import blocks
from .config import UnetConfig
from .layers import apply_linear

__all__ = ["step_norms"]


def step_norms(weights: Weights, timestep: int) -> dict[str, npt.NDArray[np.float32]]:
    """``{parameter name: float32 (C,)}``: scale and bias of every residual block's second norm,
    with the block's own scale and shift of a timestep: n (1 + s) + b."""
    config: UnetConfig = weights.config
    x = sinusoid(timestep, config.model_channels).astype(np.float64)
    x = _linear(weights, "time_embed.2", silu(_linear(weights, "time_embed.0", x)))
    active = silu(x)
    found = {}
    for block in blocks(config):
        if block.kind == "residual":
            norm = f"{block.name}.out_layers.0"
            scale, shift = np.split(_linear(weights, f"{block.name}.emb_layers.1", active), 2)
            for part, value in (("weight", weights.state[f"{norm}.weight"] * (1 + scale)),
                                ("bias", weights.state[f"{norm}.bias"] * (1 + scale) + shift)):
                found[f"{norm}.{part}"] = value.astype(np.float32)
    return found


def _linear(weights: Weights, name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A linear layer of a vector, float64."""
    if f"{name}.weight" in weights.binary:
        return apply_linear(weights, name, x)
    matrix = weights.state[f"{name}.weight"][:, :, 0, 0].astype(np.float64)
    y: npt.NDArray[np.float64] = matrix @ x + weights.state[f"{name}.bias"]
    return y
