"""Signs and scales of latent weights, for binarizers whose scale is not a filter's mean magnitude.

Each function that packs takes latent weights, float (Cout, Cin, k, k), and their name for errors;
it raises CheckpointError for NaN or infinite weights.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ...operators.sign_bits import BinaryWeight, pack_signs, unpack_signs

Array = npt.NDArray[Any]


def without_scale(weight: Array, name: str) -> BinaryWeight:
    """Signs with the scale 1 (Binarized Neural Networks)."""
    return _scaled(BinaryWeight.from_float(weight, name), 1.0)


def of_one_scale(weight: Array, name: str) -> BinaryWeight:
    """Signs with one scale, the mean magnitude of the whole layer (DoReFa-Net)."""
    found = BinaryWeight.from_float(weight, name)
    return _scaled(found, float(np.abs(weight).mean(dtype=np.float64)))


def in_planes(weight: Array, name: str, bits: int) -> BinaryWeight:
    """Bit planes of the codes of ``bits`` bits of tanh W / (2 max |tanh W|) + 1/2, rounded half up,
    the maximum over the layer (DoReFa-Net).

    The codes n are weights 2 n / (2^bits - 1) - 1: the sum of signs of their bits, each times 2^i /
    (2^bits - 1), which are the scales.
    """
    zeros = BinaryWeight.from_float(weight, name).zeros
    most, squashed = (1 << bits) - 1, np.tanh(weight.astype(np.float64))
    share = squashed / (2 * (np.abs(squashed).max() or 1.0)) + 0.5
    codes = np.floor(most * share + 0.5).astype(np.int64)
    words = [pack_signs((codes >> index & 1) - 0.5) for index in range(bits)]
    alpha = np.repeat(np.exp2(np.arange(bits)) / most, len(weight)).astype(np.float32)
    return BinaryWeight(np.concatenate(words), alpha, weight.shape[1], zeros, bits)


def latent_of_planes(packed: BinaryWeight) -> Array:
    """Latent weights float32 (Cout, Cin, k, k) that ``in_planes`` maps to ``packed``: their tanh is
    half of the weight. The largest code, or 0, is among those of any weights."""
    signs = unpack_signs(packed.words, packed.in_channels).astype(np.float64)
    planes = signs.reshape(packed.planes, -1, *signs.shape[1:])
    most = (1 << packed.planes) - 1
    latent: Array = np.arctanh(np.tensordot(np.exp2(np.arange(packed.planes)), planes, 1)
                               / (2 * most)).astype(np.float32)
    return latent


def balanced(weight: Array, name: str) -> BinaryWeight:
    """Signs of W - mean W of each filter, and the power of two that is nearest, on a logarithmic
    scale, to the mean magnitude of (W - mean W) / std W (IR-Net).

    The standard deviation is that of a sample (n - 1), as in the published code. A filter whose
    weights are all equal has the signs +1 and the scale 1.
    """
    BinaryWeight.from_float(weight, name)  # refuses weights without a sign
    wide = weight.astype(np.float64)
    centred = wide - wide.mean(axis=(1, 2, 3), keepdims=True)
    n = centred[0].size
    deviation = np.sqrt((centred ** 2).sum(axis=(1, 2, 3)) / max(1, n - 1))
    ratio = np.abs(centred).mean(axis=(1, 2, 3)) / np.where(deviation > 0, deviation, 1)
    alpha = np.exp2(np.rint(np.log2(np.where(ratio > 0, ratio, 1)))).astype(np.float32)
    return BinaryWeight(pack_signs(centred), alpha, weight.shape[1],
                        int(np.count_nonzero(centred == 0)))


def balanced_latent(packed: BinaryWeight) -> Array:
    """Latent weights float32 (Cout, Cin, k, k) that ``balanced`` maps to ``packed``.

    Each side of 0 sums to the same, S. A share t of it is in one weight, the rest spread evenly:
    with n1 positive and n2 negative weights of n, the squares sum to S^2 ((1 - t^2) h + 2 t^2),
    h = 1 / n1 + 1 / n2, and the mean magnitude is 2 S / n. t follows from the wanted ratio of the
    two; t = 0 is the largest ratio that such signs can have.
    """
    signs = unpack_signs(packed.words, packed.in_channels)
    latent = np.empty_like(signs)
    for row, alpha, out in zip(signs.reshape(len(signs), -1), packed.alpha,
                               latent.reshape(len(signs), -1)):
        n, sides = row.size, [np.flatnonzero(row > 0), np.flatnonzero(row < 0)]
        if not all(map(len, sides)):
            out[:] = row
            continue
        h = sum(1 / len(side) for side in sides)
        squares = 4 * (n - 1) / max(n * float(alpha), 1e-6) ** 2  # wanted, for S = 1
        share = np.sqrt(np.clip((squares - h) / max(2 - h, 1e-12), 0, 0.998))
        for sign, side in zip((1, -1), sides):
            out[side] = sign * (1 - share) / len(side)
            out[side[0]] += sign * share
    return latent


def _scaled(packed: BinaryWeight, alpha: float) -> BinaryWeight:
    return dataclasses.replace(packed, alpha=np.full_like(packed.alpha, alpha))
