"""Fold everything that depends on the time step alone into constants of that step.

Of a step t there remain: the TaR and TaA parameters of its group, and for each residual block one
vector, Linear(Swish(MLP(sinusoid(t)))), that is added per channel after the first convolution
(paper, section 3.3; published code).
"""

from __future__ import annotations

import math

import numpy as np

from ..architecture import Block, NetworkConfig, blocks
from ..checkpoint import Checkpoint


def sinusoid(timestep: int, dim: int) -> np.ndarray:
    """Sinusoidal embedding of the raw step number, float32 (dim,): sines, then cosines.

    Frequency i is exp(-ln(1e4) * i / (dim / 2)). Every operation is rounded to float32, as torch
    does it: at t in the thousands the argument's rounding moves the result by 1e-4, and a network
    trained with it is another function without it. exp, sin and cos are taken in float64 of the
    float32 argument and rounded once, which is what a correctly rounded float32 routine returns.
    """
    half = dim // 2
    fraction = np.arange(half, dtype=np.float32) / np.float32(half)
    exponent = np.float32(-math.log(1e4)) * fraction
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    argument = (np.float32(timestep) * frequency).astype(np.float64)
    return np.concatenate([np.sin(argument), np.cos(argument)]).astype(np.float32)


def time_vectors(checkpoint: Checkpoint, timestep: int) -> dict[str, np.ndarray]:
    """``{residual block name: float32 (C,)}``, what each block adds at this step."""
    state, config = checkpoint.state, checkpoint.config

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        # float64 from here on: it is nearer to the exact value than any float32 order.
        return state[f"{name}.weight"].astype(np.float64) @ x + state[f"{name}.bias"]

    embedding = sinusoid(timestep, config.inner_channel).astype(np.float64)
    embedding = linear("time_embedding.linear2",
                       _swish(linear("time_embedding.linear1", embedding)))
    activated = _swish(embedding)
    return {block.name: linear(f"{block.name}.time", activated).astype(np.float32)
            for block in residual_blocks(config)}


def group_parameters(checkpoint: Checkpoint, group: int) -> dict[str, np.ndarray]:
    """TaR and TaA of one group, for every BIConv X of the network.

    ``X.threshold`` float32 (C,), added before the sign; ``X.rprelu`` float32 (3, C), rows shift_in,
    slope, shift_out of RPReLU(y) = prelu(y + shift_in, slope) + shift_out.
    """
    state = checkpoint.state
    result = {}
    for name in binary_convolutions(checkpoint.config):
        result[f"{name}.threshold"] = state[f"{name}.threshold"][group]
        result[f"{name}.rprelu"] = np.stack(
            [state[f"{name}.{part}"][group] for part in ("shift_in", "slope", "shift_out")])
    return result


def residual_blocks(config: NetworkConfig) -> list[Block]:
    return [block for block in blocks(config) if block.kind == "residual"]


def binary_convolutions(config: NetworkConfig) -> list[str]:
    """Names of all BIConvs, in order of execution."""
    return [f"{block.name}.conv{half}" for block in blocks(config)
            if block.binary for half in (1, 2)]


def _swish(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))
