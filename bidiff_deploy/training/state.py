"""Checkpoints of a training run, and networks from any checkpoint.

A run's own checkpoint is a torch file in the published form, ``{"params": ..., "params_ema":
...}`` under published keys, so that export reads it, plus what an exact resume needs.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import IO, Any, Mapping

import numpy as np
import torch
from torch import Tensor

from ..networks.bi_diffsr.architecture import NetworkConfig
from ..checkpoint.read import read_checkpoint
from ..errors import CheckpointError, UsageError
from ..files import atomic_file
from ..checkpoint.options import Options
from ..checkpoint.published_keys import from_published, to_published
from ..checkpoint.tensor_files import read_state
from .networks.bi_diffsr import BiDiffSR
from .recipe import Recipe, recipe_from_dict

# What two recipes may differ in when one continues a run of the other, and what not even in run:
# other crops, noise and timesteps would follow, some of them for the second time.
RESUMABLE = ("run", "loading")
_FIXED = ("batch", "seed")


def published_state(module: BiDiffSR, config: NetworkConfig) -> dict[str, Tensor]:
    """Copies of a network's parameters under published keys and in published shapes."""
    named = {name: value.detach().float().cpu().numpy()
             for name, value in module.named_parameters()}
    return {key: torch.from_numpy(np.array(value, order="C"))
            for key, value in to_published(named, config).items()}


def load_published(module: BiDiffSR, state: Mapping[str, Tensor], config: NetworkConfig) -> None:
    """The inverse of ``published_state``. Raises CheckpointError for foreign keys or shapes."""
    arrays = from_published({key: value.numpy() for key, value in state.items()}, config)
    _load(module, arrays)


def load_network(path: str | Path, options: Options | None = None) -> BiDiffSR:
    """A network from a checkpoint: published, of a training run, or packed.

    A packed one has signs and magnitudes only: its latent weights become +-alpha, which binarise
    to the same. Raises CheckpointError as ``checkpoint.read_checkpoint`` does.
    """
    found = read_checkpoint(path, options)
    state, metadata, _ = read_state(Path(path))
    latent = (found.latent() if "bidiff" in metadata
              else from_published(state, found.config, str(path)))
    network = BiDiffSR(found.config)
    _load(network, latent)
    return network


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


def write_packed(run: Path, recipe: Recipe, output: Path, *, overwrite: bool = False) -> None:
    """Pack the averaged weights of a run's checkpoint, with the scale, schedule and timesteps
    it was trained for. Raises CheckpointError or OutputError."""
    from .task import make_task

    state = read_run(run, recipe)
    task = make_task(dataclasses.replace(recipe, initial=""), run.parent)
    task.pack(state["params_ema"], run, output, overwrite)


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


def _load(module: BiDiffSR, arrays: Mapping[str, np.ndarray]) -> None:
    module.load_state_dict({name: torch.from_numpy(np.array(value, np.float32))
                            for name, value in arrays.items()})
