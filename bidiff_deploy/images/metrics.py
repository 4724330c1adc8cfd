"""PSNR and SSIM as super-resolution papers report them: on luma, borders cropped."""

from __future__ import annotations

import numpy as np

from ..errors import ImageError

__all__ = ["LUMA", "LUMA_OFFSET", "SSIM_CONSTANTS", "WINDOW", "luma", "ms_ssim_y", "psnr_y",
           "ssim_y"]

# ITU-R BT.601, as Matlab's rgb2ycbcr: RGB of [0, 1] to Y of [16, 235].
LUMA, LUMA_OFFSET = np.array([65.481, 128.553, 24.966]), 16.0
WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)  # Gaussian of SSIM, a row of it
WINDOW /= WINDOW.sum()
SSIM_CONSTANTS = 0.01 ** 2, 0.03 ** 2  # for a range of 1
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM, the finest first


def luma(image: np.ndarray) -> np.ndarray:
    """Y in [16, 235], float64 (H, W), of an RGB image (H, W, 3) or a grey one (H, W).

    ``image``: uint8, uint16, or floats in [0, 1]. Y is not rounded, as in the published code
    (Matlab rounds it for integers). Raises ImageError for another shape or type.
    """
    if image.dtype in (np.uint8, np.uint16):
        values = image / float(np.iinfo(image.dtype).max)
    elif image.dtype.kind == "f":
        values = image.astype(np.float64)
    else:
        raise ImageError(f"pixels of type {image.dtype} have no luma; give uint8, uint16 or floats")
    if values.ndim == 2:
        weighted = values * LUMA.sum()
    elif values.ndim == 3 and values.shape[2] == 3:
        weighted = values @ LUMA
    else:
        raise ImageError(f"an image of shape {image.shape} has no luma; give (height, width, 3) "
                         "or (height, width)")
    return np.asarray(LUMA_OFFSET + weighted)


def psnr_y(image: np.ndarray, reference: np.ndarray, border: int = 0) -> float:
    """Peak signal-to-noise ratio of Y in dB, with a peak of 255; infinite for equal images.

    ``image``, ``reference``: as ``luma`` accepts them, of one height and width. ``border``: pixels
    cropped from every side, usually the scale. Raises ImageError for other shapes.
    """
    first, second = _pair(image, reference, border, min_side=1)
    error = np.mean((first - second) ** 2)
    return float("inf") if error == 0 else float(10.0 * np.log10(255.0 ** 2 / error))


def ssim_y(image: np.ndarray, reference: np.ndarray, border: int = 0) -> float:
    """Structural similarity of Y, at most 1.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE TIP 2004: Gaussian window of 11x11 and sigma 1.5, K1 = 0.01,
    K2 = 0.03, range 255, averaged where the window is inside the image. Arguments as for
    ``psnr_y``; at least 11x11 pixels must remain.
    """
    return _similarity(*_pair(image, reference, border, min_side=len(WINDOW)))[0]


def ms_ssim_y(image: np.ndarray, reference: np.ndarray, border: int = 0) -> float:
    """Multi-scale structural similarity of Y, at most 1.

    Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment",
    Asilomar 2003: ``ssim_y`` on five scales, each the mean of 2x2 pixels of the one before (an odd
    last row or column is repeated); its luminance only on the coarsest. A negative mean counts as
    0. Arguments as for ``psnr_y``; at least 161x161 pixels must remain.
    """
    first, second = _pair(image, reference, border, min_side=(len(WINDOW) - 1) * 16 + 1)
    product = 1.0
    for level, exponent in enumerate(_SCALES):
        if level:
            first, second = _halved(first), _halved(second)
        whole, structure = _similarity(first, second)
        last = level == len(_SCALES) - 1
        product *= max(whole if last else structure, 0.0) ** exponent
    return product


def _similarity(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The mean of SSIM and that of its factor of contrast and structure."""
    mean1, mean2 = _blur(first), _blur(second)
    variance1 = _blur(first * first) - mean1 * mean1
    variance2 = _blur(second * second) - mean2 * mean2
    covariance = _blur(first * second) - mean1 * mean2
    c1, c2 = (constant * 255 ** 2 for constant in SSIM_CONSTANTS)
    structure = (2 * covariance + c2) / (variance1 + variance2 + c2)
    luminance = (2 * mean1 * mean2 + c1) / (mean1 ** 2 + mean2 ** 2 + c1)
    return float((luminance * structure).mean()), float(structure.mean())


def _halved(values: np.ndarray) -> np.ndarray:
    values = np.pad(values, [(0, side % 2) for side in values.shape], mode="edge")
    total: np.ndarray = sum((values[row::2, column::2] for row in (0, 1) for column in (0, 1)),
                            np.zeros(()))
    return total / 4


def _pair(image: np.ndarray, reference: np.ndarray, border: int,
          min_side: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = luma(image), luma(reference)
    if first.shape != second.shape:
        raise ImageError(f"images of {first.shape[1]}x{first.shape[0]} and {second.shape[1]}x"
                         f"{second.shape[0]} pixels cannot be compared; give images of one size")
    if border < 0 or min(first.shape) - 2 * border < min_side:
        raise ImageError(f"{first.shape[1]}x{first.shape[0]} pixels with a border of {border} "
                         f"cropped are too few to compare; each side needs at least {min_side}")
    inside = slice(border, -border or None)
    return first[inside, inside], second[inside, inside]


def _blur(values: np.ndarray) -> np.ndarray:
    """The Gaussian mean around every pixel whose window is inside the image."""
    for axis in (0, 1):
        length = values.shape[axis] - len(WINDOW) + 1
        values = sum((weight * values.take(range(k, k + length), axis)
                      for k, weight in enumerate(WINDOW)), np.zeros(()))
    return values
