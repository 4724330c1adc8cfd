"""Fold what a graph need not compute into constants: of a step, of a layer, of two convolutions.

Of a step t there remain: the TaR and TaA parameters of its group, and for each residual block one
vector, Linear(Swish(MLP(sinusoid(t)))), that is added per channel after the first convolution
(paper, section 3.3; published code).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..base import Weights
from .architecture import Block, binary_layers, blocks
from .binarizers import alignment_factor

_RPRELU = ("shift_in", "slope", "shift_out")


def step_constants(weights: Weights, timestep: int) -> dict[str, np.ndarray]:
    """Everything of a graph that depends on the step: ``group_parameters`` of its group, and
    ``B.time`` float32 (C,) of every residual block B."""
    found = group_parameters(weights, weights.config.group(timestep))
    found.update((f"{name}.time", vector) for name, vector in time_vectors(weights,
                                                                           timestep).items())
    return found


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


def time_vectors(weights: Weights, timestep: int) -> dict[str, np.ndarray]:
    """``{residual block name: float32 (C,)}``, what each block adds at this step."""
    state, config = weights.state, weights.config

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        # float64 from here on: it is nearer to the exact value than any float32 order.
        return state[f"{name}.weight"].astype(np.float64) @ x + state[f"{name}.bias"]

    embedding = sinusoid(timestep, config.inner_channel).astype(np.float64)
    embedding = linear("time_embedding.linear2",
                       _swish(linear("time_embedding.linear1", embedding)))
    activated = _swish(embedding)
    return {block.name: linear(f"{block.name}.time", activated).astype(np.float32)
            for block in blocks(config) if block.kind == "residual"}


def group_parameters(weights: Weights, group: int) -> dict[str, np.ndarray]:
    """TaR and TaA of one group, for every BIConv X of the network; nothing for binarizers whose
    parameters do not depend on the step.

    ``X.threshold`` float32 (C,), added before the sign; ``X.rprelu`` float32 (3, C), rows shift_in,
    slope, shift_out of RPReLU(y) = prelu(y + shift_in, slope) + shift_out.
    """
    state = weights.state
    result: dict[str, np.ndarray] = {}
    if not weights.config.binary_layers.grouped:
        return result
    for name in binary_layers(weights.config):
        result[f"{name}.threshold"] = state[f"{name}.threshold"][group]
        result[f"{name}.rprelu"] = np.stack(
            [state[f"{name}.{part}"][group] for part in _RPRELU])
    return result


def layer_constants(weights: Weights, name: str) -> dict[str, np.ndarray]:
    """What BinaryConv of one layer holds, of a binarizer without groups: float32 ``alpha`` and
    ``threshold``, (C,), and ``rprelu``, (3, C); neutral where they are none of its.

    BBCU's residual alignment needs no operators: with k above 0, sign(k x + b) is
    sign(x + b / k), and RPReLU(y) / k is RPReLU of y / k, its two shifts divided by k.
    """
    state, config = weights.state, weights.config
    alpha = weights.binary[f"{name}.weight"].alpha
    kind, zeros = config.binary_layers, np.zeros_like(alpha)
    neutral = {"shift_in": zeros, "slope": np.ones_like(alpha), "shift_out": zeros}
    if kind.name == "bbcu":
        k = np.float32(alignment_factor(config.alignment, len(alpha)))
        rows = [state[f"{name}.shift_in"] / k, state[f"{name}.slope"],
                state[f"{name}.shift_out"] / k]
        return {"alpha": alpha / k, "threshold": state[f"{name}.threshold"] / k,
                "rprelu": np.stack(rows)}
    # DAB's threshold moves with the picture, so it is taken off before.
    own = kind.name == "reactnet"
    return {"alpha": alpha, "threshold": state[f"{name}.threshold"] if own else zeros,
            "rprelu": np.stack([neutral[part] for part in _RPRELU])}


def pair_of_convolutions(state: Mapping[str, np.ndarray], block: Block) -> dict[str, np.ndarray]:
    """``weight`` and ``bias`` of the one convolution that both of a full-precision CS-Fusion,
    CP-Down or CP-Up are.

    Fusion: of [x; skip], (C, 2C, 1, 1). The first sees the odd channels of x, then the even ones of
    skip, the second the even ones of x, then the odd ones of skip, so every weight has a place of
    its own. Down: each sees half of the channels and their outputs are added, (C/2, C, 3, 3). Up:
    both see all, their outputs lie beside each other, (2C, C, 3, 3).
    """
    first, second = (state[f"{block.name}.conv{half}.weight"] for half in (1, 2))
    biases = [state[f"{block.name}.conv{half}.bias"] for half in (1, 2)]
    if block.kind == "up":
        return {"weight": np.concatenate([first, second]), "bias": np.concatenate(biases)}
    bias = np.sum([value.astype(np.float64) for value in biases], axis=0).astype(np.float32)
    if block.kind == "down":
        return {"weight": np.concatenate([first, second], axis=1), "bias": bias}
    channels = block.channels
    odd, even = channels // 2, channels - channels // 2  # how many there are of each
    weight = np.empty((channels, 2 * channels, 1, 1), np.float32)
    weight[:, 1:channels:2], weight[:, channels::2] = first[:, :odd], first[:, odd:]
    weight[:, 0:channels:2], weight[:, channels + 1::2] = second[:, :even], second[:, even:]
    return {"weight": weight, "bias": bias}


def _swish(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))
