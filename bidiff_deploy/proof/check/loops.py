"""Whole loops, compared as images, and on trained weights only.

An untrained network is no denoiser and its loop is chaotic: the reference in another memory layout
ends at 1 dB from itself. Whether a network is trained is seen by what the reference makes of the
image: something near the enlarged input, or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...engines.noise_predictor import NoisePredictor
from ...images.metrics import psnr_y
from ..inputs import Sample

# Enlarged photos lie 20 to 40 dB from the originals, what an untrained network makes of them
# below 12 dB.
TRAINED_PSNR = 18.0
# Two images this close look the same, and differ by less than a grey level on average; the bound
# gives way where the reference in another layout is no closer to itself.
LOOP_PSNR = 45.0
FLOOR_MARGIN = 6.0
# Where products may be rounded to bfloat16, or maps to float16: still less than a hundredth of the
# range on average. The demo model keeps 57 dB in both.
FAST_LOOP_PSNR = 40.0
LOOP_PSNRS = {"bfloat16": FAST_LOOP_PSNR, "float16": FAST_LOOP_PSNR}  # by an engine's precision
# How much of its PSNR against the ground truth an engine may lose to the reference.
TRUTH_LOSS = 0.1


@dataclass(frozen=True)
class LoopCheck:
    """One image through the whole loop; every figure is PSNR-Y in dB, None where unknown.

    psnr, floor   engine, and the reference in another layout, against the reference
    sanity        the reference against the enlarged input
    truth         of "bicubic", "reference" and "engine" against the ground truth
    precision     the engine's
    """

    image: str
    sanity: float
    floor: float | None = None
    psnr: float | None = None
    truth: dict[str, float] | None = None
    precision: str = "float32"

    @property
    def trained(self) -> bool:
        return self.sanity >= TRAINED_PSNR

    @property
    def bound(self) -> float:
        most = LOOP_PSNRS.get(self.precision, LOOP_PSNR)
        return most if self.floor is None else min(most, self.floor - FLOOR_MARGIN)

    @property
    def passed(self) -> bool:
        if not self.trained:
            return True
        lost = self.truth["reference"] - self.truth["engine"] if self.truth else 0.0
        return self.psnr is not None and self.psnr >= self.bound and lost <= TRUTH_LOSS

    @property
    def reason(self) -> str:
        if not self.trained:
            return (f"not compared: the reference ends {self.sanity:.1f} dB from the input, so "
                    f"the network is not trained (at least {TRAINED_PSNR:.0f} dB)")
        if self.psnr is None or self.psnr < self.bound:
            return f"{self.psnr:.1f} dB from the reference's image is below {self.bound:.1f} dB"
        if not self.passed:
            return (f"loses more than {TRUTH_LOSS} dB of the reference's PSNR against the "
                    "ground truth")
        held = f"precision {self.precision}: " if self.precision in LOOP_PSNRS else ""
        return f"{held}at least {self.bound:.1f} dB from the reference's image"


def check_loops(samples: Sequence[Sample], reference: NoisePredictor, floor: NoisePredictor, engine: NoisePredictor,
                precision: str = "float32") -> list[LoopCheck]:
    """Sample each image with all three from the same noise (seed 0) and compare the results;
    ``precision`` is the engine's."""
    results = []
    for sample in samples:
        expected = reference.sample(sample.condition)
        enlarged = np.clip(sample.condition, 0, 1)
        sanity = _psnr(expected, enlarged)
        if sanity < TRAINED_PSNR:
            results.append(LoopCheck(sample.name, sanity, precision=precision))
            continue
        found = engine.sample(sample.condition)
        truth = None
        if sample.truth is not None:
            border = engine.scale
            truth = {name: psnr_y(_picture(image), sample.truth, border) for name, image in
                     (("bicubic", enlarged), ("reference", expected), ("engine", found))}
        results.append(LoopCheck(sample.name, sanity, _psnr(floor.sample(sample.condition),
                                                            expected),
                                 _psnr(found, expected), truth, precision))
    return results


def _picture(batch: np.ndarray) -> np.ndarray:
    return batch[0].transpose(1, 2, 0)


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    return psnr_y(_picture(first), _picture(second))
