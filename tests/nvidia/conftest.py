"""Tests of this folder need NVIDIA's TensorRT-RTX, which builds without a GPU: `make nvidia`."""

from __future__ import annotations

import importlib.util
import os

import pytest

MODULE, PACKAGE = "tensorrt_rtx_bindings", "tensorrt-rtx-cu13-bindings"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skipped by name where it is not installed, and failing there under `make nvidia`."""
    ours = [item for item in items if item.get_closest_marker("nvidia")]
    if importlib.util.find_spec(MODULE) is not None:
        return
    if "BIDIFF_NVIDIA" in os.environ:
        raise pytest.UsageError(f"{PACKAGE} is not installed; make nvidia")
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=f"{PACKAGE} is not installed: make nvidia"))
