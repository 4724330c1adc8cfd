"""Training of a student of one call; see ``objective`` for its losses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...sampling.noise import NO_NOISE
from ..diffusion import DiffusionTask, add_noise
from ..draws import Draws, Purpose
from ..networks import channels_last
from ..networks.bi_diffsr import BiDiffSR
from ..recipe import Recipe
from .objective import OneStepLoss
from .similarity import Vgg
from .trajectories import Trajectories, open_teacher

__all__ = ["OneStepTask"]

_LOWEST, _HIGHEST = 20, 15  # the lowest 1/20 of the timesteps, and all but the highest 1/15


class OneStepTask(DiffusionTask):
    """A student under training; see ``task.Task``.

    ``fresh``: to measure time and memory, with a teacher of fresh weights and the student's
    options, and the condition in place of the images that it samples.
    """

    def __init__(self, recipe: Recipe, folder: Path, fresh: bool = False) -> None:
        super().__init__(recipe, folder)
        self.options = recipe.one_step
        self.teacher: BiDiffSR | None = None
        self.trajectories: Trajectories | None = None
        if not self.options.teacher:
            return
        if fresh:
            self.teacher = copy.deepcopy(self.network).requires_grad_(False).eval()
            return
        teacher = open_teacher(recipe, folder)
        self.teacher = channels_last(teacher.network)
        cache = self.options.trajectory.cache
        if self.options.samples:
            self.trajectories = Trajectories(teacher, folder / cache if cache else None)

    def objective(self) -> nn.Module:
        perceptual = self.options.perceptual
        vgg = Vgg(self.folder / perceptual.vgg, self.folder / perceptual.dists) \
            if perceptual.weight and perceptual.vgg else None
        return OneStepLoss(self.network, self.options, self.recipe.schedule, self.teacher, vgg)

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """What ``OneStepLoss.forward`` describes. With ``data.crops`` an image has the same noise
        each time it comes, so that the teacher's image is one of few."""
        options = self.options
        noise = draws.noise(high, period=self.recipe.data.crops)
        alpha = self.recipe.schedule.alphas_cumprod[options.timestep]
        start = add_noise(given, noise if options.noise else torch.zeros_like(noise), alpha)
        nothing = high.new_zeros(0)
        taught = nothing
        if options.samples:
            taught = given if self.trajectories is None else self.trajectories.images(given, noise)
        score, judge, total = options.score, options.discriminator, self.recipe.network.total_step
        return (*(image.contiguous(memory_format=torch.channels_last)
                  for image in (start, given)), high, taught,
                draws.noise(high, Purpose.SCORE, uniform=score.noise == "uniform")
                if score.weight else nothing,
                self._timesteps(high, draws, Purpose.SCORE, score.timesteps
                                or (0, max(1, total // _LOWEST))),
                draws.noise(high, Purpose.JUDGE, uniform=judge.noise == "uniform")
                if judge.weight else nothing,
                self._timesteps(high, draws, Purpose.JUDGE, judge.timesteps
                                or (0, max(1, total - total // _HIGHEST))))

    def _timesteps(self, high: Tensor, draws: Draws, purpose: Purpose,
                   ends: tuple[int, ...]) -> Tensor:
        """A timestep for each image, or one for the batch if the teacher has groups of them."""
        if self.teacher is not None and self.teacher.config.dynamic_group > 1:
            found = [int(draws.shared().integers(ends[0], ends[1]))]
        else:
            found = draws.integers(len(high), ends[0], ends[1], purpose)
        return torch.tensor(found, device=high.device)

    @property
    def noiseless(self) -> bool:
        return not self.options.noise

    @property
    def sampling(self) -> dict[str, Any]:
        """Also whether the one step starts from noise."""
        found = super().sampling
        return found if self.options.noise else {**found, "noise": NO_NOISE}
