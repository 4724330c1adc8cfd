"""Whole diffusion loops, compared as images, for trained networks only.

An untrained network is no denoiser and its loop is chaotic: the reference in another memory layout
ends at 1 dB from itself. A network counts as trained if the reference's image is near the enlarged
input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...engines.noise_predictor import NoisePredictor
from ...images.metrics import psnr_y
from ...operators.names import INT8
from ..inputs import Sample

# Enlarged photos are 20 to 40 dB from the originals, images of an untrained network below 12 dB.
TRAINED_PSNR = 18.0
# Images this close look the same, and differ by less than a grey level on average. The bound is
# lower if the reference in another layout is not closer to itself.
LOOP_PSNR = 45.0
FLOOR_MARGIN = 6.0
# If products may be rounded to bfloat16, or maps to float16: still less than a hundredth of the
# range on average. The demo model has 57 dB in both, and 53 to 59 in int8.
FAST_LOOP_PSNR = 40.0
LOOP_PSNRS = {"bfloat16": FAST_LOOP_PSNR, "float16": FAST_LOOP_PSNR,
              INT8: FAST_LOOP_PSNR}  # by an engine's precision
# By how many dB an engine's PSNR against the ground truth may be below the reference's.
TRUTH_LOSS = 0.1


@dataclass(frozen=True)
class LoopCheck:
    """One image through the whole loop; every figure is PSNR-Y in dB, None where unknown.

    psnr, floor   engine, and the reference in another layout, against the reference
    sanity        the reference against the enlarged input
    truth         of "bicubic", "reference" and "engine" against the ground truth
    precision     the engine's
    judged        whether each step of it was judged by its parts; the figures are then information,
                  because a few signs that rounding decides may move an image
    """

    image: str
    sanity: float
    floor: float | None = None
    psnr: float | None = None
    truth: dict[str, float] | None = None
    precision: str = "float32"
    judged: bool = False

    @property
    def trained(self) -> bool:
        return self.sanity >= TRAINED_PSNR

    @property
    def bound(self) -> float:
        bound = LOOP_PSNRS.get(self.precision, LOOP_PSNR)
        return bound if self.floor is None else min(bound, self.floor - FLOOR_MARGIN)

    @property
    def passed(self) -> bool:
        if not self.trained or self.judged:
            return True
        lost = self.truth["reference"] - self.truth["engine"] if self.truth else 0.0
        return self.psnr is not None and self.psnr >= self.bound and lost <= TRUTH_LOSS

    @property
    def reason(self) -> str:
        if not self.trained:
            return (f"not compared: the reference ends {self.sanity:.1f} dB from the input, so "
                    f"the network is not trained (at least {TRAINED_PSNR:.0f} dB)")
        if self.judged:
            return "its steps were judged"
        if self.psnr is None or self.psnr < self.bound:
            return f"{self.psnr:.1f} dB from the reference's image is below {self.bound:.1f} dB"
        if not self.passed:
            return (f"its PSNR against the ground truth is more than {TRUTH_LOSS} dB below the "
                    "reference's")
        held = f"precision {self.precision}: " if self.precision in LOOP_PSNRS else ""
        return f"{held}at least {self.bound:.1f} dB from the reference's image"


def check_loops(samples: Sequence[Sample], reference: NoisePredictor, floor: NoisePredictor,
                engine: NoisePredictor, *, judged: bool = False) -> list[LoopCheck]:
    """Sample each image with all three from the same noise (seed 0) and compare the results.
    ``judged``: see ``LoopCheck``."""
    results, precision = [], engine.precision
    for sample in samples:
        expected = reference.sample(sample.condition)
        enlarged = np.clip(sample.condition, 0, 1)
        sanity = loop_psnr(expected, enlarged)
        if sanity < TRAINED_PSNR:
            results.append(LoopCheck(sample.name, sanity, precision=precision,
                                     judged=judged))
            continue
        found = engine.sample(sample.condition)
        truth = None
        if sample.truth is not None:
            border = engine.scale
            truth = {name: psnr_y(_pixels(image), sample.truth, border) for name, image in
                     (("bicubic", enlarged), ("reference", expected), ("engine", found))}
        results.append(LoopCheck(
            sample.name, sanity, loop_psnr(floor.sample(sample.condition), expected),
            loop_psnr(found, expected), truth, precision, judged))
    return results


def _pixels(batch: np.ndarray) -> np.ndarray:
    pixels: np.ndarray = batch[0].transpose(1, 2, 0)
    return pixels


def loop_psnr(first: np.ndarray, second: np.ndarray) -> float:
    """PSNR-Y in dB of two images, float32 (1, 3, H, W)."""
    return psnr_y(_pixels(first), _pixels(second))
