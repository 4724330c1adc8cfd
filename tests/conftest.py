"""Fixtures of all tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support")

from support.reference_cases import Reference  # noqa: E402

pytest_plugins = ["support.emulated_cuda", "support.report_pages"]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"))


@pytest.fixture
def edit_manifest():
    """A function that changes a bundle's manifest in place: ``edit(bundle, change)``."""
    def edit(bundle: Path, change) -> None:
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
    return edit
