"""A bundle that tests of ``inspect`` may change."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def bundle(reference, tmp_path):
    copy = tmp_path / "model.bundle"
    shutil.copytree(reference.bundle("small", [1960, 400, 0]), copy)
    return copy
