"""A recipe with its photos, for the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from support.training_setup import write_recipe  # needs torch, which may be missing

    return write_recipe(tmp_path)
