"""AdaFM at a fixed timestep: a circular convolution of each cell, as one symmetric matrix.

The published layer is y = irfft2(rfft2(x) * s) of each cell of f x f pixels, with one real s (f,
f / 2 + 1) for all channels and cells. An inverse transform that returns real numbers keeps only the
Hermitian part of the first column of the spectrum, and of the last if f is even, so s counts there
as the mean of itself and its mirror image. The full spectrum is then real and even, and so is the
kernel k, its inverse transform: y[i, j] = sum over (a, b) of k[i - a mod f, j - b mod f] x[a, b].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["circulant_places", "frequencies", "kernel"]

Array = npt.NDArray[Any]


def frequencies(cell: int) -> int:
    """How many numbers a scale has, (f, f / 2 + 1)."""
    return cell * (cell // 2 + 1)


def kernel(scale: Array) -> npt.NDArray[np.float64]:
    """The kernel of a scale (f, f / 2 + 1), float64 (f, f), real and even."""
    cell = scale.shape[0]
    half = np.asarray(scale, np.float64)
    mirrored = half[-np.arange(cell) % cell]
    spectrum = np.empty((cell, cell))
    spectrum[:, :half.shape[1]] = half
    for column in {0, cell // 2} if cell % 2 == 0 else {0}:
        spectrum[:, column] = (half[:, column] + mirrored[:, column]) / 2
    for column in range(half.shape[1], cell):
        spectrum[:, column] = mirrored[:, cell - column]
    return np.fft.ifft2(spectrum).real


def circulant_places(cell: int) -> npt.NDArray[np.int32]:
    """Where each entry of the matrix (f^2, f^2) is in the flat kernel, int32."""
    rows, columns = np.divmod(np.arange(cell * cell, dtype=np.int32), cell)
    down, right = ((place[:, None] - place) % cell for place in (rows, columns))
    places: npt.NDArray[np.int32] = (down * cell + right).astype(np.int32)
    return places
