"""Measures whether tiles are visible: gradients at their borders against the whole image's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bidiff_deploy.images.tiles import Axis, TilePlan

__all__ = ["Seams", "seam_energy"]

_MARGIN = 2  # pixels on either side of a ramp that count as its border
Strips = list[tuple[int, int]]


@dataclass(frozen=True)
class Seams:
    """Gradient energies of one image, or their sums over several.

    border, border_whole  energy where one tile passes into the next: run in tiles, run whole
    rest, rest_whole      energy in all other places
    step                  largest step in brightness across a ramp that the tiled image has and the
                          whole one does not, in [0, 1]
    """

    border: float = 0.0
    border_whole: float = 0.0
    rest: float = 0.0
    rest_whole: float = 0.0
    step: float = 0.0

    @property
    def excess(self) -> float:
        """Relative excess energy at borders compared with the same places of the whole image,
        beyond what tiles change in other places; 0 without seams."""
        return _ratio(self.border, self.border_whole) / _ratio(self.rest, self.rest_whole) - 1

    def __add__(self, other: Seams) -> Seams:
        return Seams(self.border + other.border, self.border_whole + other.border_whole,
                     self.rest + other.rest, self.rest_whole + other.rest_whole,
                     max(self.step, other.step))


def seam_energy(tiled: np.ndarray, whole: np.ndarray, plan: TilePlan) -> Seams:
    """Compare float (C, H, W) results of one image, run by ``plan`` and run whole."""
    total = Seams()
    for axis, strips in ((1, _strips(plan.rows)), (2, _strips(plan.columns))):
        at_border = np.zeros(whole.shape[axis] - 1, bool)
        for begin, end in strips:
            at_border[max(begin, 0):end] = True
        other = tuple(i for i in range(3) if i != axis)
        sums = []
        for image in (tiled, whole):
            energy = np.square(np.diff(image.astype(np.float64), axis=axis)).sum(axis=other)
            sums.append((energy[at_border].sum(), energy[~at_border].sum()))
        profile = (tiled.astype(np.float64) - whole).mean(axis=other)
        step = max((abs(profile[end:end + 8].mean() - profile[max(begin - 8, 0):begin].mean())
                    for begin, end in strips), default=0.0)
        (border, rest), (border_whole, rest_whole) = sums
        total += Seams(border, border_whole, rest, rest_whole, float(step))
    return total


def _strips(axis: Axis) -> Strips:
    return [(begin - _MARGIN, end + _MARGIN) for begin, end in axis.ramps]


def _ratio(energy: float, reference: float) -> float:
    return energy / reference if reference else 1.0 if not energy else float("inf")
