"""Bundles that tests of builds share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(reference) -> Path:
    return reference.bundle("tiny", [999, 400, 0])


@pytest.fixture(scope="session")
def halved(reference) -> Path:
    return reference.bundle("tiny", [999, 400, 0], precision="half")
