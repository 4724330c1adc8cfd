"""A run's checkpoint as a packed checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .recipe import Recipe
from .state import read_run
from .task import make_task

__all__ = ["pack_run"]


def pack_run(run: Path, recipe: Recipe, output: Path, *, overwrite: bool = False) -> None:
    """Pack the averaged weights of a run's checkpoint, with the scale, schedule and timesteps
    it was trained for. Raises CheckpointError or OutputError."""
    state = read_run(run, recipe)
    task = make_task(dataclasses.replace(recipe, initial=""), run.parent)
    task.pack(state["params_ema"], run, output, overwrite)
