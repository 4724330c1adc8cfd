"""What each command loads: nothing heavy for --help, and only what its work needs."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bidiff_deploy
from bidiff_deploy.cli import COMMANDS
from bidiff_deploy.images.write import write_image

CLI = Path(bidiff_deploy.__file__).parent / "cli"
# Modules loaded when a command's own modules are imported, without click and the standard library.
# onnx brings google (protobuf), ml_dtypes and typing_extensions.
ONNX = {"google", "ml_dtypes", "numpy", "onnx", "typing_extensions"}
LOADED = {
    "models": set(),
    "upscale": {"PIL", "jinja2", "markupsafe", "numpy"},  # all but numpy for --compare alone
    "app": set(),
    "doctor": {"numpy"},
    "export": ONNX | {"safetensors"},
    "export-onnx": ONNX | {"safetensors"},
    "pack": ONNX | {"safetensors"},
    "inspect": ONNX,
    "build": ONNX,
    "build-plugin": {"numpy"},
    "export-triton": {"numpy"},
    "bench": ONNX | {"safetensors"},
    "check": ONNX | {"polygraphy", "safetensors"},
    "evaluate": ONNX | {"safetensors"},
    "report": ONNX | {"jinja2", "markupsafe", "safetensors"},
    "train": {"numpy", "torch"},
}
UPSCALE = """
import os, sys
from bidiff_deploy.cli import main
sys.argv = ["bidiff-deploy", "upscale", {bundle!r}, {image!r}, "-o", {output!r}, "--quiet"]
try:
    main()
except SystemExit as ended:
    assert not ended.code
assert os.environ["OPENBLAS_NUM_THREADS"] == "1"  # starting more takes time, and is of no use
"""
NAMES = """
import atexit, importlib, sys

@atexit.register
def print_names():
    names = {name.partition(".")[0] for name in sys.modules}
    print(" ".join(sorted(names - sys.stdlib_module_names)))
"""
IMPORT = """
import contextlib
with contextlib.suppress(ImportError):
    importlib.import_module({!r})
"""
# Torch takes a second to import. Here it counts as loaded where something asks for it, and fails.
NO_TORCH = """
class NoTorch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            sys.modules["torch"] = None
            raise ImportError("no torch")

sys.meta_path.insert(0, NoTorch)
"""
OWN = {"bidiff_deploy", "click"}


def imported_inside(module: str) -> list[str]:
    """The modules that functions of a command import, which is when the command runs."""
    tree = ast.parse((CLI / f"{module}.py").read_text())
    found = set()
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom) and node.level:
                package = "bidiff_deploy" if node.level == 2 else "bidiff_deploy.cli"
                found.add(f"{package}.{node.module}" if node.module else package)
    return sorted(found)


def names_after(program: str) -> set[str]:
    """Modules, without the standard library's, that a Python has loaded after ``program``."""
    done = subprocess.run([sys.executable, "-c", f"{NAMES}\n{program}"],
                          check=True, capture_output=True, text=True)
    return {name for name in done.stdout.split() if not name.startswith("_")}


@functools.cache
def at_start() -> set[str]:
    """What site-packages' own hooks load at every start of Python."""
    return names_after("")


def loaded(modules: list[str]) -> set[str]:
    program = "\n".join(f"importlib.import_module({name!r})" for name in modules)
    return names_after(program) - at_start() - OWN


def test_the_table_names_every_command():
    assert set(LOADED) == set(COMMANDS)


# Commands that may load the same are imported by one process.
@pytest.mark.parametrize("commands", [
    [name for name in sorted(COMMANDS) if LOADED.get(name) == allowed]
    for allowed in sorted(map(set, {frozenset(names) for names in LOADED.values()}), key=sorted)],
    ids=" ".join)
def test_commands_load_no_more_than_they_need(commands):
    allowed = LOADED[commands[0]]
    modules = [module for name in commands for module in imported_inside(COMMANDS[name][0])]
    if "torch" in allowed:
        assert allowed <= names_after(NO_TORCH + "".join(map(IMPORT.format, modules)))
    else:
        assert loaded(modules) <= allowed


def test_help_loads_nothing_but_click():
    assert loaded(["bidiff_deploy.cli"]) == set()


def test_upscaling_an_image_loads_a_runtime_and_little_else(reference, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    program = UPSCALE.format(bundle=str(reference.bundle("tiny", [0])),
                             image=str(tmp_path / "a.png"), output=str(tmp_path / "b.png"))
    found = names_after(program) - at_start() - OWN
    assert (tmp_path / "b.png").exists()
    assert found <= ONNX | {"PIL", "onnxruntime"}
