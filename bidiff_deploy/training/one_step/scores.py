"""Score distillation: what the teacher's noise says about the student's result.

Source: TAD-SR, "One Step Diffusion-based Super-Resolution with Time-Aware Distillation" (arXiv
2408.07476). Both results, the student's and the teacher's sampled one, are noised alike; the
difference of the noise that the teacher finds in them is the gradient.

Two readings of its released code are decided here. Noise is drawn uniformly in [0, 1) there, with a
mean of 0.5, where the formula has normal noise: normal, and ``one_step.score.noise`` has the other.
The teacher's input is divided by sqrt(kappa^2 eta + 1) twice there: not here, where nothing is
divided, because x_t has the variance of an image at any t.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["noised", "score_distillation"]

Function = Callable[[Tensor], Tensor]


def noised(image: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """sqrt(alpha) image + sqrt(1 - alpha) noise; ``alpha``: a float32 tensor that broadcasts."""
    return alpha.sqrt() * image + (1 - alpha).sqrt() * noise


def score_distillation(student: Tensor, taught: Tensor, diffused: Function,
                       epsilon: Function) -> Tensor:
    """mean(g * student), g = epsilon(diffused(student)) - epsilon(diffused(taught)): a scalar.

    ``student``, ``taught``: float (N, C, H, W). ``diffused`` adds the same noise to both,
    ``epsilon`` is the noise that the teacher finds. g has no gradient, so that of the loss with
    respect to ``student`` is g divided by the number of elements.
    """
    with torch.no_grad():
        gradient = epsilon(diffused(student)) - epsilon(diffused(taught))
    return (gradient * student).mean()
