"""How equal two runs of a step are: the comparison that checks and Polygraphy both use.

A sign flips where two float32 computations round to different sides of zero, which moves outputs by
2 * alpha. So a step is judged by its signal-to-noise ratio, by where signs flip, and by whether
everything before the first flip was equal within rounding.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...operators.names import INT8

# With float32 rounding alone every layer of the reference networks has 110 to 140 dB, and a single
# flipped sign takes a layer's output below 90 dB.
CLEAN_SNR = 90.0
# Of the noise that simulates rounding before each layer for a noise floor: a careful choice from
# that range, because flips grow with the noise.
ROUNDING_SNR = 130.0
# The published implementation against itself: 46.6 dB at 256x256 in another memory layout, 47 dB in
# float64; an engine that flips a few more signs than the floor run has 45 dB or more.
STEP_SNR = 40.0
# If products may be rounded to bfloat16 (8 bits), signs flip in every layer, so a step is no longer
# close to its noise floor; at this bound the error is a tenth of the prediction.
FAST_STEP_SNR = 20.0
# Maps in float16 flip signs from the first layer on: the published network with random weights has
# 36 dB, narrower ones 16 to 24, the trained demo model 17, with images that are 57 dB apart.
HALF_STEP_SNR = 12.0
# Some maps in 8 bits: the demo model has 20 to 35 dB, with images that are 53 to 59 dB apart.
INT8_STEP_SNR = 12.0
STEP_SNRS = {"bfloat16": FAST_STEP_SNR, "float16": HALF_STEP_SNR,
             INT8: INT8_STEP_SNR}  # by an engine's precision
# If the floor is below the bound, an engine may be this much further from the reference.
FLOOR_MARGIN = 6.0

PREDICTION = "prediction"
_SIGN = ".sign"


def snr(reference: np.ndarray, found: np.ndarray) -> float:
    """10 log10(sum ref^2 / sum (ref - found)^2) in dB; infinite if both are equal, minus infinite
    if ``found`` has another shape or values that are not finite."""
    if reference.shape != found.shape or not np.isfinite(found).all():
        return -math.inf
    wide = np.asarray(reference, np.float64)
    error = float(np.sum((wide - found) ** 2))
    if error == 0:
        return math.inf
    signal = float(np.sum(wide ** 2))
    return 10 * math.log10(signal / error) if signal else -math.inf


@dataclass(frozen=True)
class LayerStatistics:
    """One binary layer in one step.

    flips, signs           number of activations whose sign differs, and of all activations
    input_snr, output_snr  dB, before the sign and after the layer
    undecidable            number of activations whose sign rounding decides, as far as known
    """

    layer: str
    flips: int
    signs: int
    input_snr: float
    output_snr: float
    undecidable: int = 0

    @property
    def clean(self) -> bool:
        """Whether the input was equal within rounding, and every sign was equal."""
        return self.flips == 0 and self.input_snr >= CLEAN_SNR


@dataclass(frozen=True)
class StepStatistics:
    """One step of one runner against the reference, both fed the same latent."""

    snr: float
    max_difference: float
    layers: tuple[LayerStatistics, ...] = ()

    @property
    def flips(self) -> int:
        """Number of signs that differ, in all layers."""
        return sum(layer.flips for layer in self.layers)

    @property
    def first_flip(self) -> str | None:
        """The first layer, in order of execution, in which signs differ."""
        return next((layer.layer for layer in self.layers if layer.flips), None)

    @property
    def divergence(self) -> str | None:
        """Where the two differ although no sign had flipped before, or None.

        Rounding cannot do that: the named layer, or the part before it, computes something else.
        """
        for layer in self.layers:
            if layer.input_snr < CLEAN_SNR:
                return f"before {layer.layer}"
            if layer.flips:
                return None
            if layer.output_snr < CLEAN_SNR:
                return layer.layer
        if self.layers and self.snr < CLEAN_SNR:
            return "after the last binary layer"
        return None


def compare_step(reference: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray],
                 names: Mapping[str, str] | None = None) -> StepStatistics:
    """Statistics of two runners' outputs (see ``runners``) for the same feed.

    ``names``: names of layers, by their keys. Layers that one of the two lacks are left out.
    """
    layers = []
    for output in reference:
        if not output.endswith(_SIGN) or output not in found:
            continue
        key = output[:-len(_SIGN)]
        ours, theirs = found[output], reference[output]
        flips = (int(np.count_nonzero(ours != theirs)) if ours.shape == theirs.shape
                 else theirs.size)
        layers.append(LayerStatistics(
            (names or {}).get(key, key), flips, int(theirs.size),
            snr(reference[f"{key}.x"], found[f"{key}.x"]), snr(reference[key], found[key])))
    expected, prediction = reference[PREDICTION], found[PREDICTION]
    difference = (float(np.abs(expected - prediction).max())
                  if expected.shape == prediction.shape else math.inf)
    return StepStatistics(snr(expected, prediction), difference, tuple(layers))


def nudged(latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``latent`` one unit in the last place up, and one down; both differ from it only by rounding,
    which decides some signs."""
    up = np.float32(np.inf)
    return np.nextafter(latent, up), np.nextafter(latent, -up)


def step_bound(floor: StepStatistics | None, precision: str = "float32") -> float:
    """The lowest SNR, dB, with which a step passes, for a bundle of this precision and a measured
    noise ``floor``."""
    bound = STEP_SNRS.get(precision, STEP_SNR)
    return bound if floor is None else min(bound, floor.snr - FLOOR_MARGIN)


def judge_step(step: StepStatistics, floor: StepStatistics | None = None,
               precision: str = "float32") -> tuple[bool, str, float]:
    """(passed, reason, bound): whether only rounding, and flips that it causes, differ."""
    bound = step_bound(floor, precision)
    if step.divergence:
        return False, f"diverges {_at(step.divergence)}, where no sign had flipped", bound
    if step.snr < bound:
        return False, f"{decibel(step.snr, 3)} is below {decibel(bound, 3)}", bound
    if precision in STEP_SNRS:
        return True, f"precision {precision}: the bound is {decibel(bound)}", bound
    if step.layers and not step.flips:
        return True, "no sign flips", bound
    if step.layers:
        return True, f"{step.flips} signs flip, the first in {step.first_flip}", bound
    return True, f"at least {decibel(bound)}", bound


def decibel(value: float, digits: int = 1) -> str:
    """``46.6 dB``, or ``equal``."""
    return "equal" if value == math.inf else f"{value:.{digits}f} dB"


def _at(place: str) -> str:
    return place if place.startswith(("before", "after")) else f"in {place}"


@dataclass(frozen=True)
class OutputVerdict:
    """The verdict on one output, for Polygraphy's Comparator: true or false, and statistics."""

    passed: bool
    reason: str
    statistics: StepStatistics | LayerStatistics

    def __bool__(self) -> bool:
        return self.passed


class StepComparison:
    """``compare_step`` as the ``compare_func`` of Polygraphy's ``Comparator.compare_accuracy``.

    The first runner of a pair is the reference. Returns a verdict for ``prediction``, and one for
    each binary layer, which is false if ``StepStatistics.divergence`` names it.
    """

    def __call__(self, reference: Any, found: Any) -> OrderedDict[str, OutputVerdict]:
        step = compare_step(dict(reference.items()), dict(found.items()))
        passed, reason, _ = judge_step(step)
        verdicts = OrderedDict({PREDICTION: OutputVerdict(passed, reason, step)})
        for layer in step.layers:
            bad = step.divergence in (layer.layer, f"before {layer.layer}")
            verdicts[layer.layer] = OutputVerdict(
                not bad, "diverges" if bad else f"{layer.flips} signs flip", layer)
        return verdicts
