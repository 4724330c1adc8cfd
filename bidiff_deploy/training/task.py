"""The interface between the training loop and the two kinds of network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from .checkpoints import read_run
from .diffusion import DiffusionTask
from .draws import Draws
from .one_run import OneRunTask
from .one_step.task import OneStepTask, TaughtOneRunTask
from .recipe import Recipe
from .validate import Pair

__all__ = ["Task", "make_task", "pack_run"]


class Task(Protocol):
    """One kind of network under training.

    ``given`` is the network's input, CONDITION or LOW, see ``crops.Crops``; float32, about [0, 1].
    """

    given: str

    @property
    def network(self) -> nn.Module:
        """The network that is trained, float32. The trainer moves it to the device and copies it
        for the averaged weights."""
        ...

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """The arguments of ``objective`` for a batch on the network's device.

        ``high``: float32 (N, 3, crop, crop) in [0, 1]. Called without gradients.
        """
        ...

    def objective(self) -> nn.Module:
        """A module around ``network``: the tensors of ``prepare`` -> {"loss": scalar, ...}.

        This module is distributed, compiled and run in low precision, so it holds every parameter
        that is trained. Other entries are scalars for the log.
        """
        ...

    def restored(self, network: nn.Module, pair: Pair) -> npt.NDArray[np.uint8]:
        """The network's output for a pair's low-resolution image, uint8 (H, W, 3)."""
        ...

    def published(self, network: nn.Module) -> dict[str, Tensor]:
        """Copies of the parameters on the CPU, float32, with published keys."""
        ...

    def load_published(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        """The inverse of ``published``. Raises CheckpointError for unknown keys or shapes."""
        ...

    def pack(self, published: dict[str, Tensor], run: Path, output: Path,
             overwrite: bool = False) -> None:
        """Write a packed checkpoint of a state that ``published`` returned, read from the run's
        checkpoint ``run``. Raises CheckpointError or OutputError."""
        ...


def make_task(recipe: Recipe, folder: Path, fresh: bool = False) -> Task:
    """The task of ``recipe.model``; paths in the recipe are relative to ``folder``.

    ``fresh``: to measure or pack; a teacher of one step samples nothing, see ``OneStepTask``.
    """
    taught = bool(recipe.one_step.losses)
    if not recipe.noise_predictor:
        return TaughtOneRunTask(recipe, folder, fresh) if taught else OneRunTask(recipe, folder)
    if taught:
        return OneStepTask(recipe, folder, fresh)
    return DiffusionTask(recipe, folder)


def pack_run(run: Path, recipe: Recipe, output: Path, *, overwrite: bool = False) -> None:
    """Pack the averaged weights of a run's checkpoint, with the scale, schedule and timesteps of
    the recipe. Raises CheckpointError or OutputError."""
    state = read_run(run, recipe)
    task = make_task(dataclasses.replace(recipe, initial=""), run.parent, fresh=True)
    task.pack(state["params_ema"], run, output, overwrite)
