"""Bundles that tests of builds share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(reference) -> Path:
    return reference.bundle("tiny", [999, 400, 0])


@pytest.fixture(scope="session")
def halved(reference) -> Path:
    return reference.bundle("tiny", [999, 400, 0], precision="half")


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in for pycuda, installed."""
    names = ("pycuda", "pycuda.driver")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "stand_ins" / "pycuda"))
    yield
    for name in names:
        sys.modules.pop(name, None)
