"""Winograd's F(4x4, 3x3) as our kernels compute it: its matrices, and the size of its sums.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["POINTS", "winograd_matrices", "winograd_size"]

POINTS = 2 / 3, 3 / 2  # of our kernels: 0, these and their negatives, and infinity


def winograd_matrices(near: float = POINTS[0],
                      far: float = POINTS[1]) -> tuple[Tensor, Tensor, Tensor]:
    """G (6, 3), B^T (6, 6) and A^T (4, 6) in float64.

    Evaluation at the points 0, +-near, +-far and infinity: row i of B^T is the polynomial that
    vanishes at every other point, column i of A^T the powers of point i.
    """
    points = [0.0, near, -near, far, -far]
    g, b, a = (torch.zeros(shape, dtype=torch.float64) for shape in ((6, 3), (6, 6), (4, 6)))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        polynomial = [1.0]  # coefficients, lowest power first
        for other in others:
            polynomial = [low - other * high for low, high in
                          zip([0.0, *polynomial], [*polynomial, 0.0])]
        b[i, :5] = torch.tensor(polynomial)
        powers = torch.tensor([point ** k for k in range(4)], dtype=torch.float64)
        a[:, i], g[i] = powers, powers[:3] / math.prod(point - other for other in others)
    whole = [1.0]
    for point in points:
        whole = [low - point * high for low, high in zip([0.0, *whole], [*whole, 0.0])]
    b[5], a[3, 5], g[5, 2] = torch.tensor(whole), 1.0, 1.0
    return g, b, a


def winograd_size(x: Tensor, weight: Tensor, points: tuple[float, float] = POINTS) -> Tensor:
    """Winograd's sum of absolute values for a 3x3 convolution with padding 1: float32
    (N, Cout, H, W) of ``x`` float32 (N, Cin, H, W), not negative, and ``weight`` float64
    (Cout, Cin, 3, 3)."""
    g, b, a = winograd_matrices(*points)
    n, channels, height, width = x.shape
    padded = F.pad(x, (1, 1 + -width % 4, 1, 1 + -height % 4))

    def on_both_axes(matrix: Tensor) -> Tensor:  # (36, 1, k, k): one filter for each frequency
        rows = matrix.abs().float()
        return torch.einsum("fi,gj->fgij", rows, rows).flatten(0, 1)[:, None]

    # The transforms as convolutions with a stride of one tile.
    values = F.conv2d(padded.flatten(0, 1)[:, None], on_both_axes(b), stride=4)
    rows, columns = values.shape[2:]
    values = values.reshape(n, channels, 36, -1).permute(2, 0, 1, 3)
    weights = torch.einsum("fi,ocij,gj->fgoc", g, weight, g).abs().float().flatten(0, 1)
    sums = weights[:, None] @ values  # (36, N, Cout, tiles)
    sums = sums.permute(1, 2, 0, 3).reshape(-1, 36, rows, columns)
    y = F.conv_transpose2d(sums, on_both_axes(a.T), stride=4)
    return y.reshape(n, -1, 4 * rows, 4 * columns)[:, :, :height, :width]
