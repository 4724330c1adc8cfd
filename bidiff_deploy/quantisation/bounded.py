"""A checkpoint with the bounds that an export in int8 needs: searched, and trained if asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.record import Checkpoint
from ..errors import UsageError
from ..progress import Progress
from .calibrate import CROPS, calibrate, crops_of

__all__ = ["with_bounds"]


def with_bounds(checkpoint: Checkpoint, timesteps: Sequence[int], folder: str | Path, *,
                iterations: int = 0, threads: int | None = None,
                quiet: bool = True) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint with bounds of its int8 layers, and what they come from, JSON-ready.

    ``folder``: low-resolution images. ``iterations``: of training after the search. ``quiet``: no
    progress on stderr. Raises as ``calibrate``, and UsageError without torch if bounds are to be
    trained.
    """
    if iterations:
        try:
            from ..training.bounds import train_bounds
        except ImportError:
            raise UsageError("torch is not installed, and training bounds needs it; pip install "
                             "'bidiff-deploy[train]' or leave --train-bounds out") from None
    with Progress("calibration", CROPS, quiet=quiet) as progress:
        found = calibrate(checkpoint, timesteps, Path(folder), threads=threads, on_crop=lambda
                          done, total: progress.update(done * CROPS / total))
    bounds = found.bounds
    if iterations:
        with Progress("training of bounds", iterations, quiet=quiet) as progress:
            bounds = train_bounds(checkpoint, bounds, timesteps, crops_of(Path(folder))[1],
                                  iterations, on_iteration=progress.update)
    return (dataclasses.replace(checkpoint, bounds=bounds),
            {**found.to_dict(), "trained": iterations})
