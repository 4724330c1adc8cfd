"""What the training loop needs of a kind of model: from a batch to a loss, and to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from ..networks import NETWORKS
from ..networks.base import NOISE_PREDICTOR
from .data import Pair
from .diffusion import DiffusionTask
from .draws import Draws
from .one_run import OneRunTask
from .recipe import Recipe

__all__ = ["Task", "make_task"]


class Task(Protocol):
    """A kind of model under training.

    network  what is trained, with fresh weights; float32. The loop copies it for the averaged
             weights and moves it to the device
    given    what comes with a crop: data.CONDITION, the low-resolution image enlarged to the crop's
             size, or data.LOW, that image itself; float32, about [0, 1]
    """

    network: nn.Module
    given: str

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """What ``objective`` is called with, for a batch on the network's device.

        ``high``: float32 (N, 3, crop, crop) of [0, 1]. Called without gradients.
        """
        ...

    def objective(self, network: nn.Module) -> nn.Module:
        """A module around ``network``: the tensors of ``prepare`` -> {"loss": scalar, ...}.

        It is what is distributed, compiled and run in low precision, so it holds every parameter
        that is trained. Further entries are scalars for the log.
        """
        ...

    def restored(self, network: nn.Module, pair: Pair) -> np.ndarray:
        """The photo that the network makes of a pair's low-resolution image, uint8 (H, W, 3)."""
        ...

    def published(self, network: nn.Module) -> dict[str, Tensor]:
        """Copies of the parameters on the CPU, float32, under published keys."""
        ...

    def load_published(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        """The inverse of ``published``. Raises CheckpointError for foreign keys or shapes."""
        ...

    def pack(self, published: dict[str, Tensor], run: Path, output: Path,
             overwrite: bool = False) -> None:
        """Write a packed checkpoint of a state that ``published`` gave, of the run's checkpoint
        ``run``. Raises CheckpointError or OutputError."""
        ...


def make_task(recipe: Recipe, folder: Path) -> Task:
    """The task of ``recipe.model``; paths in the recipe are relative to ``folder``."""
    if NETWORKS[recipe.model].kind == NOISE_PREDICTOR:
        return DiffusionTask(recipe, folder)
    return OneRunTask(recipe, folder)
