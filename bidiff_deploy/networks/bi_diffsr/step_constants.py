"""Constants that export computes so that graphs need not: of a step, a layer, two convolutions.

A step t becomes the TaR and TaA parameters of its group, and for each residual block one vector,
Linear(Swish(MLP(sinusoid(t)))), which is added per channel after the first convolution (paper,
section 3.3; published code).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...operators.sign_bits import BinaryWeight, unpack_signs
from ..base import Weights
from .architecture import Block, binary_layers, blocks
from .binarizers import DOREFA, DOREFA_LEVEL, alignment_factor
from .bit_planes import Plane
from .preconditioning import SHARES, shares

Array = npt.NDArray[Any]
_RPRELU = ("shift_in", "slope", "shift_out")


def step_constants(weights: Weights, timestep: int) -> dict[str, Array]:
    """Every constant that depends on the step: ``group_parameters`` of its group, ``B.time``
    float32 (C,) of every residual block B, and with preconditioning its ``SHARES``, (1,) each."""
    found = group_parameters(weights, weights.config.group(timestep))
    found.update((f"{name}.time", vector) for name, vector in time_vectors(weights,
                                                                           timestep).items())
    config = weights.config
    if config.preconditioning:
        row = shares(config.total_step, config.preconditioning)[timestep]
        found.update(zip(SHARES, row[:, None]))
    return found


def sinusoid(timestep: int, dim: int) -> Array:
    """Sinusoidal embedding of the raw step number, float32 (dim,): sines, then cosines.

    Frequency i is exp(-ln(1e4) * i / (dim / 2)). Every operation is rounded to float32, as in
    torch: at t in the thousands rounding the argument changes the result by 1e-4, and the network
    was trained with that. exp, sin and cos are computed in float64 of the float32 argument and
    rounded once, which equals a correctly rounded float32 routine.
    """
    half = dim // 2
    fraction = np.arange(half, dtype=np.float32) / np.float32(half)
    exponent = np.float32(-math.log(1e4)) * fraction
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    argument = (np.float32(timestep) * frequency).astype(np.float64)
    return np.concatenate([np.sin(argument), np.cos(argument)]).astype(np.float32)


def time_vectors(weights: Weights, timestep: int) -> dict[str, Array]:
    """``{residual block name: float32 (C,)}``, the vector that each block adds at this step."""
    state, config = weights.state, weights.config

    def linear(name: str, x: Array) -> Array:
        # float64 from here on: closer to the exact value than any order of float32 sums.
        y: Array = state[f"{name}.weight"].astype(np.float64) @ x + state[f"{name}.bias"]
        return y

    embedding = sinusoid(timestep, config.inner_channel).astype(np.float64)
    embedding = linear("time_embedding.linear2",
                       _swish(linear("time_embedding.linear1", embedding)))
    activated = _swish(embedding)
    return {block.name: linear(f"{block.name}.time", activated).astype(np.float32)
            for block in blocks(config) if block.kind == "residual"}


def group_parameters(weights: Weights, group: int) -> dict[str, Array]:
    """TaR and TaA of one group, for every BIConv X of the network; empty for binarizers whose
    parameters do not depend on the step.

    ``X.threshold`` float32 (C,), added before the sign; ``X.rprelu`` float32 (3, C), rows shift_in,
    slope, shift_out of RPReLU(y) = prelu(y + shift_in, slope) + shift_out.
    """
    state = weights.state
    result: dict[str, Array] = {}
    if not weights.config.binary_layers.grouped:
        return result
    for name in binary_layers(weights.config):
        result[f"{name}.threshold"] = state[f"{name}.threshold"][group]
        result[f"{name}.rprelu"] = np.stack(
            [state[f"{name}.{part}"][group] for part in _RPRELU])
    return result


def layer_constants(weights: Weights, name: str) -> dict[str, Array]:
    """Constants of a layer's BinaryConv, for a binarizer without groups: float32 ``alpha`` (Cout,),
    ``threshold`` (Cin,) and ``rprelu`` (3, Cout). Parameters that the binarizer does not have are
    identity values.

    BBCU's residual alignment needs no operators: with k above 0, sign(k x + b) is
    sign(x + b / k), and RPReLU(y) / k is RPReLU of y / k, its two shifts divided by k. DoReFa-Net's
    bits of 0 and 1 are half of signs and 1: the node computes the half of signs.
    """
    state, config = weights.state, weights.config
    weight = weights.binary[f"{name}.weight"]
    alpha = weight.alpha
    kind, zeros = config.binary_layers, np.zeros_like(alpha)
    neutral = {"shift_in": zeros, "slope": np.ones_like(alpha), "shift_out": zeros}
    if kind.name == "bbcu":
        k = np.float32(alignment_factor(config.alignment, len(alpha)))
        rows = [state[f"{name}.shift_in"] / k, state[f"{name}.slope"],
                state[f"{name}.shift_out"] / k]
        return {"alpha": alpha / k, "threshold": state[f"{name}.threshold"] / k,
                "rprelu": np.stack(rows)}
    if kind.name == DOREFA:
        alpha, threshold = alpha / 2, np.full(weight.in_channels, -DOREFA_LEVEL, np.float32)
    elif kind.name == "reactnet":
        threshold = state[f"{name}.threshold"]
    else:  # DAB's threshold depends on the image, so it is subtracted before.
        threshold = np.zeros(weight.in_channels, np.float32)
    return {"alpha": alpha, "threshold": threshold,
            "rprelu": np.stack([neutral[part] for part in _RPRELU])}


def plane_alpha(weight: BinaryWeight, plane: Plane) -> Array:
    """alpha of one of a layer's BinaryConvs, float32 (Cout,)."""
    scale: Array = weight.plane(plane.weight).alpha.astype(np.float64) * plane.share
    return scale.astype(np.float32)


def offset_kernel(weight: BinaryWeight) -> Array:
    """DoReFa-Net's half of 1: what each tap adds where it is inside the image, float32 (Cout, 1, k,
    k). Its convolution with a map of ones is added to the layer's BinaryConv."""
    signs = unpack_signs(weight.words, weight.in_channels).sum(axis=1, dtype=np.float64)
    halves = signs * (weight.alpha.astype(np.float64) / 2)[:, None, None]
    kernel: Array = halves.reshape(weight.planes, -1, 1, *signs.shape[1:]).sum(axis=0)
    return kernel.astype(np.float32)


def pair_of_convolutions(state: Mapping[str, Array], block: Block) -> dict[str, Array]:
    """``weight`` and ``bias`` of one convolution that equals the two of a full-precision CS-Fusion,
    CP-Down or CP-Up.

    Fusion: of [x; skip], (C, 2C, 1, 1). The first has the odd channels of x, then the even ones of
    skip, the second the even ones of x, then the odd ones of skip, so no two weights share an
    element. Down: each has half of the channels and their outputs are added, (C/2, C, 3, 3). Up:
    both have all channels and their outputs are concatenated, (2C, C, 3, 3).
    """
    first, second = (state[f"{block.name}.conv{half}.weight"] for half in (1, 2))
    biases = [state[f"{block.name}.conv{half}.bias"] for half in (1, 2)]
    if block.kind == "up":
        return {"weight": np.concatenate([first, second]), "bias": np.concatenate(biases)}
    bias = np.sum([value.astype(np.float64) for value in biases], axis=0).astype(np.float32)
    if block.kind == "down":
        return {"weight": np.concatenate([first, second], axis=1), "bias": bias}
    channels = block.channels
    odd, even = channels // 2, channels - channels // 2  # number of each
    weight = np.empty((channels, 2 * channels, 1, 1), np.float32)
    weight[:, 1:channels:2], weight[:, channels::2] = first[:, :odd], first[:, odd:]
    weight[:, 0:channels:2], weight[:, channels + 1::2] = second[:, :even], second[:, even:]
    return {"weight": weight, "bias": bias}


def _swish(x: Array) -> Array:
    y: Array = x / (1.0 + np.exp(-x))
    return y
