"""Training of a student of one call, or of a network without a loop; see ``objective``."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...sampling.noise import NO_NOISE
from ..diffusion import DiffusionTask, add_noise
from ..draws import Draws
from ..networks.bi_diffsr import BiDiffSR
from ..one_run import OneRunTask
from ..recipe import Recipe
from .objective import OneRunLoss, OneStepLoss
from .teaching import Teaching, opened

__all__ = ["OneStepTask", "TaughtOneRunTask"]


class OneStepTask(DiffusionTask):
    """A student under training; see ``task.Task``.

    ``fresh``: to measure time and memory, with a teacher of fresh weights and the student's
    options, and the condition in place of the images that it samples.
    """

    def __init__(self, recipe: Recipe, folder: Path, fresh: bool = False) -> None:
        super().__init__(recipe, folder)
        self.options = recipe.one_step
        if fresh:
            teacher = copy.deepcopy(self.network).requires_grad_(False).eval() \
                if self.options.teacher else None
            self.teaching = Teaching(self.options, recipe.schedule, teacher)
        else:
            self.teaching = opened(recipe, folder)

    @property
    def teacher(self) -> BiDiffSR | None:
        return self.teaching.teacher

    def objective(self) -> nn.Module:
        return OneStepLoss(self.network, self.options, self.recipe.schedule, self.teacher,
                           self.teaching.vgg(self.folder))

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """What ``OneStepLoss.forward`` describes. With ``data.crops`` an image has the same noise
        each time it comes, so that the teacher's image is one of few."""
        options = self.options
        noise = draws.noise(high, period=self.recipe.data.crops)
        alpha = self.recipe.schedule.alphas_cumprod[options.timestep]
        start = add_noise(given, noise if options.noise else torch.zeros_like(noise), alpha)
        return (*(image.contiguous(memory_format=torch.channels_last)
                  for image in (start, given)), high,
                *self.teaching.inputs(high, given, noise, draws))

    @property
    def noiseless(self) -> bool:
        return not self.options.noise

    @property
    def sampling(self) -> dict[str, Any]:
        """Also whether the one step starts from noise."""
        found = super().sampling
        return found if self.options.noise else {**found, "noise": NO_NOISE}


class TaughtOneRunTask(OneRunTask):
    """A network without a loop, trained by the losses of one step. The teacher's condition is the
    low-resolution crop enlarged alone, so its border may differ from the photo's.

    ``fresh``: to measure time and memory, with the condition in place of the images that the
    teacher samples.
    """

    def __init__(self, recipe: Recipe, folder: Path, fresh: bool = False) -> None:
        super().__init__(recipe, folder)
        self.folder, self.fresh = folder, fresh

    @functools.cached_property
    def teaching(self) -> Teaching:
        """Opened when it is first needed, so that packing a run does without the teacher."""
        found = opened(self.recipe, self.folder)
        if self.fresh:
            found.trajectories = None
        return found

    def objective(self) -> nn.Module:
        return OneRunLoss(self.network, self.recipe.one_step, self.teaching.schedule,
                          self.teaching.teacher, self.teaching.vgg(self.folder))

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """What ``OneStepLoss.forward`` describes, from low-resolution crops."""
        options = self.recipe.one_step
        noise = draws.noise(high, period=self.recipe.data.crops) if options.samples \
            else high.new_zeros(0)
        condition = F.interpolate(given, scale_factor=self.recipe.scale, mode="bicubic")
        return (*(image.contiguous(memory_format=torch.channels_last)
                  for image in (given, condition)), high,
                *self.teaching.inputs(high, condition, noise, draws))
