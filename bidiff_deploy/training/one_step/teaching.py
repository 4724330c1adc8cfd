"""What the losses of a student of one call read besides its result."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...sampling.schedule import Schedule
from ..draws import Draws, Purpose
from ..networks import channels_last
from ..networks.bi_diffsr import BiDiffSR
from ..recipe import Recipe
from ..recipe_one_step import OneStep
from .similarity import Vgg
from .trajectories import Trajectories, open_teacher

__all__ = ["Teaching", "opened"]

_LOWEST, _HIGHEST = 20, 15  # the lowest 1/20 of the timesteps, and all but the highest 1/15


class Teaching:
    """A teacher, if the losses need one, and the images that it samples.

    ``schedule``: the teacher's. ``trajectories`` None: the condition takes the place of the images.
    """

    def __init__(self, options: OneStep, schedule: Schedule, teacher: BiDiffSR | None = None,
                 trajectories: Trajectories | None = None) -> None:
        self.options, self.schedule = options, schedule
        self.teacher, self.trajectories = teacher, trajectories

    def inputs(self, high: Tensor, condition: Tensor, noise: Tensor,
               draws: Draws) -> tuple[Tensor, ...]:
        """The last five arguments of ``OneStepLoss.forward``."""
        options, nothing = self.options, high.new_zeros(0)
        taught = nothing
        if options.samples:
            taught = condition if self.trajectories is None else self.trajectories.images(
                condition, noise)
        score, judge, total = options.score, options.discriminator, self.schedule.total_steps
        return (taught,
                draws.noise(high, Purpose.SCORE, uniform=score.noise == "uniform")
                if score.weight else nothing,
                self._timesteps(high, draws, Purpose.SCORE, score.timesteps
                                or (0, max(1, total // _LOWEST))),
                draws.noise(high, Purpose.JUDGE, uniform=judge.noise == "uniform")
                if judge.weight else nothing,
                self._timesteps(high, draws, Purpose.JUDGE, judge.timesteps
                                or (0, max(1, total - total // _HIGHEST))))

    def vgg(self, folder: Path) -> Vgg | None:
        """The network of DISTS, if the recipe names its weights, relative to ``folder``."""
        perceptual = self.options.perceptual
        return Vgg(folder / perceptual.vgg, folder / perceptual.dists) \
            if perceptual.weight and perceptual.vgg else None

    def _timesteps(self, high: Tensor, draws: Draws, purpose: Purpose,
                   ends: tuple[int, ...]) -> Tensor:
        """A timestep for each image, or one for the batch if the teacher has groups of them."""
        if self.teacher is not None and self.teacher.config.dynamic_group > 1:
            found = [int(draws.shared().integers(ends[0], ends[1]))]
        else:
            found = draws.integers(len(high), ends[0], ends[1], purpose)
        return torch.tensor(found, device=high.device)


def opened(recipe: Recipe, folder: Path) -> Teaching:
    """With the recipe's teacher; paths are relative to ``folder``. Raises CheckpointError for a
    teacher that does not fit, UsageError for timesteps that it does not have."""
    options = recipe.one_step
    if not options.teacher:
        return Teaching(options, recipe.schedule if recipe.noise_predictor else Schedule())
    teacher = open_teacher(recipe, folder)
    cache = options.trajectory.cache
    return Teaching(options, teacher.schedule, channels_last(teacher.network),
                    Trajectories(teacher, folder / cache if cache else None)
                    if options.samples else None)
