"""Checkpoints of a training run.

A run's own checkpoint is a torch file in the published form, ``{"params": ..., "params_ema":
...}`` under published keys, so that export reads it, plus what an exact resume needs.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import CheckpointError, UsageError
from ..files import atomic_file
from .recipe import Recipe, recipe_from_dict

# What two recipes may differ in when one continues a run of the other, and what not even in run:
# other crops, noise and timesteps would follow, some of them for the second time.
RESUMABLE = ("run", "loading")
_FIXED = ("batch", "seed")


def write_run(path: Path, state: Mapping[str, Any]) -> None:
    """Write a run's checkpoint, replacing the previous one when it is whole. Raises OutputError."""
    with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
        kept = _ErrorKept(file)
        try:
            torch.save(dict(state), kept)
        except RuntimeError:
            if kept.error is None:
                raise
            raise kept.error from None


class _ErrorKept(io.RawIOBase):
    """A file that remembers why it could not be written; torch hides it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def read_run(path: Path, recipe: Recipe) -> dict[str, Any]:
    """A run's own checkpoint. Raises CheckpointError if it is none, or of another recipe, batch or
    seed."""
    state = _read(path)
    try:  # an older version may have written fewer keys
        stored, given = recipe_from_dict(state["recipe"]).to_dict(), recipe.to_dict()
    except UsageError as error:
        raise CheckpointError(f"{path}: its recipe is not one of this version ({error}); continue "
                              "it with the version that wrote it") from None
    for tree in (stored, given):
        tree["data"] = {**tree["data"], "validate": []}  # what is looked at changes nothing
    changed = [key for key in given if key not in RESUMABLE and stored.get(key) != given[key]]
    if changed:
        raise CheckpointError(f"{path}: was made by another recipe ({', '.join(changed)} differ); "
                              "resume with the recipe and settings it was started with")
    was = [f"run.{key}={stored['run'][key]}" for key in _FIXED
           if stored["run"][key] != given["run"][key]]
    if was:
        raise CheckpointError(f"{path}: was made with {', '.join(was)}, on which the crops and the "
                              "noise depend; resume with the same, or start another run")
    return state


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damaged bytes happen to provoke
        raise CheckpointError(f"{path}: can not be read as a training checkpoint "
                              f"({type(error).__name__}); start the run anew") from None
    wanted = {"params", "params_ema", "recipe", "optimizer", "objective", "scaler", "iteration",
              "seconds", "best"}
    if not isinstance(state, dict) or not wanted <= set(state):
        raise CheckpointError(f"{path}: holds no training state; name the folder of a run")
    return state
