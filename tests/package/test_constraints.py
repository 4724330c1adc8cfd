"""constraints.txt fits pyproject.toml, and pins everything that the app brings."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = {canonicalize_name(line.partition("==")[0]): line.strip().partition("==")[2]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")}
_UNREACHABLE = re.compile("Could not fetch URL|Connection (refused|broken)|connection error|"
                          "NewConnectionError|Temporary failure|Max retries|timed out", re.I)


def test_the_app_can_be_installed_with_the_constraints():
    """pip finds versions of everything; of what is installed in that version, it asks no index."""
    if os.environ.get("BIDIFF_OFFLINE") == "1":
        pytest.skip("BIDIFF_OFFLINE is 1")
    if not (ROOT / "engines" / "CMakeLists.txt").is_file():
        pytest.skip("the tests run without the sources of the package")
    pytest.importorskip("pip")
    # The tool that builds is what the constraints pin, if it is here; otherwise pip downloads it.
    local = ["--no-build-isolation"] if _installed("scikit-build-core") else []
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-input", "--retries",
         "0", "--disable-pip-version-check", *local, "-c", "constraints.txt", ".[app]"],
        cwd=ROOT, capture_output=True, text=True)
    if done.returncode and _UNREACHABLE.search(done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr


def test_everything_that_gradio_brings_is_pinned():
    if not _installed("gradio"):
        pytest.skip("gradio is not installed")
    waiting, seen = ["gradio", "onnxruntime"], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen or not _installed(name):
            continue
        seen.add(name)
        for text in importlib.metadata.requires(name) or ():
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                pin = PINS.get(canonicalize_name(one.name))
                assert pin is not None, f"{name} needs {text}, which constraints.txt does not pin"
                assert one.specifier.contains(pin, prereleases=True), (name, text, pin)
                waiting.append(one.name)
    assert {"pillow", "starlette", "pydantic-core"} <= seen


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
