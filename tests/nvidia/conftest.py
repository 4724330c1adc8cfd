"""Tests of this folder need NVIDIA's own programs, which run without a GPU: `make nvidia`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

# Marker -> the module that such a test needs, and its package.
PROGRAMS = {"nvidia": ("tensorrt_rtx_bindings", "tensorrt-rtx-cu13-bindings"),
            "triton": ("pytriton", "nvidia-pytriton")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skipped by name where they are not installed, and failing there under `make nvidia`."""
    for marker, (module, package) in PROGRAMS.items():
        ours = [item for item in items if item.get_closest_marker(marker)]
        if not ours or importlib.util.find_spec(module) is not None:
            continue
        if "BIDIFF_NVIDIA" in os.environ:
            raise pytest.UsageError(f"{package} is not installed; make nvidia")
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"{package} is not installed: make nvidia"))


@pytest.fixture(scope="session")
def interpreter() -> Path:
    """The environment with numpy 1 that `make nvidia` makes for Triton's Python backend."""
    return Path(os.environ["BIDIFF_TRITON"])
