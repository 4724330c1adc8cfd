"""A recipe with its photos, for the tests of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from support.training_setup import write_recipe  # needs torch, which may be missing

    return write_recipe(tmp_path)


@pytest.fixture
def taught(folder: Path) -> Path:
    """``folder`` with a full-precision teacher of 80 timesteps, t.safetensors."""
    from bidiff_deploy.checkpoint.packed import write_packed
    from bidiff_deploy.training.recipe import recipe_from_dict
    from support.binarizer_setup import checkpoint, network
    from support.training_setup import changed

    config = recipe_from_dict(changed(network={"binarizer": "none"})).network
    write_packed(folder / "t.safetensors",
                 replace(checkpoint(network(config, 5)), schedule={"total_steps": 80}))
    return folder
