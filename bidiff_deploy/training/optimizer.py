"""Adam and the learning rate that it has at every iteration."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from .recipe import Optimizer

__all__ = ["learning_rate", "make_optimizer"]


def learning_rate(options: Optimizer, iteration: int, progress: float) -> float:
    """The rate of iteration number ``iteration``, from 0, a share ``progress`` of the run done."""
    warm = min(1.0, (iteration + 1) / (options.warmup + 1))
    if options.schedule == "cosine":
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        share = options.final_share + (1 - options.final_share) * cosine
    elif options.schedule == "multistep":
        share = options.gamma ** sum(iteration >= milestone for milestone in options.milestones)
    else:
        share = 1.0
    return options.learning_rate * warm * share


def make_optimizer(options: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Adam over the parameters that are trained, in one pass over each."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.Adam(trained, lr=options.learning_rate, betas=options.betas, fused=True)
