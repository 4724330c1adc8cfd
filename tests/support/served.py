"""Bundles and pictures for tests of serving."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np

from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.export.write import choose_timesteps, export_bundle
from bidiff_deploy.models.open import checkpoint_file
from bidiff_deploy.networks.base import NOISE_PREDICTOR


def export(model: str, path: Path) -> None:
    """A shipped model's bundle: a trained one, so that results may be compared; of a diffusion
    model two time steps."""
    checkpoint = read_checkpoint(checkpoint_file(model))
    diffuses = checkpoint.network.kind == NOISE_PREDICTOR
    export_bundle(checkpoint, path,
                  timesteps=(40, 20) if diffuses else choose_timesteps(checkpoint))


def picture(height: int, width: int, seed: int = 0, count: int = 1) -> np.ndarray:
    """uint8 (count, height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(2, 9) + y / rng.uniform(2, 9)
                    + rng.uniform(0, 6, (count, 1, 1))) for _ in range(3)]
    return (127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)


def load_client(repository: Path) -> ModuleType:
    """client.py of a repository, imported from a copy: next to the models Triton would take its
    __pycache__ for one."""
    copy = Path(tempfile.mkdtemp(dir=repository.parent)) / "client.py"
    shutil.copyfile(repository / "client.py", copy)
    spec = importlib.util.spec_from_file_location("served_client", copy)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
