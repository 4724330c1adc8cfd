"""Checkpoints of a training run: written, read, and kept in its folder.

A run's checkpoint is a torch file in the published form, ``{"params": ..., "params_ema": ...}``
with published keys, so that export reads it, plus everything an exact resume needs.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from ..errors import CheckpointError, UsageError
from ..files import atomic_file, temporary_name
from .portable import read_portable, write_portable
from .recipe import Recipe, recipe_from_dict

__all__ = ["BEST", "Checkpoints", "NEWEST", "read_run", "write_run"]

NEWEST, BEST = "checkpoint.pt", "best.pt"
_OLDER = re.compile(r"checkpoint_(\d{8,})\.pt")

# Groups in which the recipe of a resumed run may differ. Batch and seed may not: crops, noise and
# timesteps follow from them, and some would be drawn a second time.
RESUMABLE = ("run", "loading")
_FIXED = ("batch", "seed")
_KEYS = {"params", "params_ema", "recipe", "optimizer", "objective", "scaler", "iteration",
         "seconds", "best"}


class Checkpoints:
    """``checkpoint.pt``, the newest; ``checkpoint_<iteration>.pt``, older ones; ``best.pt``.

    keep       number of checkpoints kept, the newest included
    portable   also written, see ``portable``
    iteration  of an existing newest checkpoint; None: there is none
    """

    def __init__(self, folder: Path, keep: int = 1, iteration: int | None = None,
                 portable: Path | None = None) -> None:
        self.folder, self.keep, self.portable = folder, keep, portable
        self.newest = folder / NEWEST
        self._iteration = iteration

    def save(self, state: Mapping[str, Any], best: bool = False) -> None:
        """Write ``state`` as the newest checkpoint, and with ``best`` also as the best.

        If writing fails, the previous newest stays whole. Raises OutputError.
        """
        older = None
        if self.keep > 1 and self._iteration not in (None, state["iteration"]):
            older = self.folder / f"checkpoint_{self._iteration:08d}.pt"
            _same_file(self.newest, older)
        try:
            write_run(self.newest, state)
        except BaseException:
            if older is not None:
                with contextlib.suppress(OSError):
                    older.unlink()
            raise
        self._iteration = state["iteration"]
        if self.portable is not None:
            write_portable(self.portable, state)
        if best:
            _same_file(self.newest, self.folder / BEST)
        for path in self.older()[:-(self.keep - 1) or None]:
            with contextlib.suppress(OSError):
                path.unlink()

    def older(self) -> list[Path]:
        """The numbered checkpoints, oldest first."""
        found = [(int(match.group(1)), path) for path in self.folder.iterdir()
                 if (match := _OLDER.fullmatch(path.name))]
        return [path for _, path in sorted(found)]


def write_run(path: Path, state: Mapping[str, Any]) -> None:
    """Write a run's checkpoint; it replaces the previous one once it is complete. Raises
    OutputError."""
    with atomic_file(path, overwrite=True) as temporary, open(temporary, "wb") as file:
        target = _ErrorKept(file)
        try:
            torch.save(dict(state), cast(IO[bytes], target))
        except RuntimeError:
            if target.error is None:
                raise
            raise target.error from None


class _ErrorKept(io.RawIOBase):
    """A file that keeps the error of a failed write, which torch hides."""

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
    """The state in a run's checkpoint, or in a file that ``portable`` wrote (``.safetensors``).
    Raises CheckpointError for another file, or if the recipe, batch or seed differ."""
    state = read_portable(path) if path.suffix == ".safetensors" else _read(path)
    try:  # an older version may have written fewer keys
        stored, given = recipe_from_dict(state["recipe"]).to_dict(), recipe.to_dict()
    except UsageError as error:
        raise CheckpointError(f"{path}: this version cannot read its recipe ({error}); continue "
                              "the run with the version that wrote it") from None
    for tree in (stored, given):
        tree["data"] = {**tree["data"], "validate": []}  # validation does not change training
        tree["initial"] = ""  # nor what the weights were before
    changed = [key for key in given if key not in RESUMABLE and stored.get(key) != given[key]]
    if changed:
        raise CheckpointError(f"{path}: was made with another recipe ({', '.join(changed)} differ);"
                              " resume with the recipe and settings that started the run")
    fixed = [f"run.{key}={stored['run'][key]}" for key in _FIXED
             if stored["run"][key] != given["run"][key]]
    if fixed:
        raise CheckpointError(f"{path}: was made with {', '.join(fixed)}, on which crops and noise "
                              "depend; resume with the same values, or start another run")
    return state


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch raise almost anything
        raise CheckpointError(f"{path}: cannot be read as a training checkpoint "
                              f"({type(error).__name__}); start the run again") from None
    if not isinstance(state, dict) or not _KEYS <= set(state):
        raise CheckpointError(f"{path}: contains no training state; name the folder of a run")
    return state


def _same_file(source: Path, target: Path) -> None:
    """Link ``target`` to ``source``, or copy it where the file system has no links."""
    temporary = temporary_name(target)
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        with atomic_file(target, overwrite=True) as copied:
            shutil.copyfile(source, copied)
