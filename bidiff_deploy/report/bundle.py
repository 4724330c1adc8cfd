"""What a page is about, as a bundle in a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.manifest import open_noise_predictor
from ..checkpoint.read import read_checkpoint
from ..errors import UsageError
from ..export.write import choose_timesteps, export_bundle
from ..models.open import checkpoint_file, is_model_file
from ..models.shipped import choose
from ..networks.base import NOISE_PREDICTOR

if TYPE_CHECKING:
    from ..bundle.record import NoisePredictorBundle

__all__ = ["opened"]


@contextmanager
def opened(model: str) -> Iterator[tuple[NoisePredictorBundle, str | None]]:
    """The bundle in the folder ``model``; of a checkpoint or the name of a shipped model one that
    exists as long as the context, with the checkpoint's path.

    Raises UsageError for an unknown name and a network without a loop, BundleError and
    CheckpointError for files that cannot be used.
    """
    if os.path.isdir(model) or model.endswith(".bundle"):
        yield open_noise_predictor(model), None
        return
    if not os.path.exists(model) and not is_model_file(model):
        choose(model)  # its error lists the names
    with checkpoint_file(model) as path, tempfile.TemporaryDirectory() as folder:
        checkpoint = read_checkpoint(path)
        if checkpoint.network.kind != NOISE_PREDICTOR:
            raise UsageError(f"{model} is a feed-forward network, and the page is of a diffusion "
                             "model's loop; use upscale --compare, check or inspect")
        bundle = Path(folder, f"{Path(model).stem}.bundle")
        export_bundle(checkpoint, bundle, timesteps=choose_timesteps(checkpoint))
        yield open_noise_predictor(bundle), str(path)
