"""Bundles that tests of builds share, and the folder of their plans."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def tiny(reference) -> Path:
    return reference.bundle("tiny", [999, 400, 0])


@pytest.fixture(scope="module")
def halved(reference) -> Path:
    return reference.bundle("tiny", [999, 400, 0], precision="half")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Folder of plans that bundles look in."""
    monkeypatch.setenv("BIDIFF_TENSORRT_PLANS", str(tmp_path / "plans"))
    return tmp_path / "plans"
