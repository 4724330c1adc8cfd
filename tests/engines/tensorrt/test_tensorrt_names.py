"""Names of TensorRT by the tables of real bindings: the stand-in has a version's names and no
others, and test_tensorrt_engine.py builds and runs with those of each version."""

from __future__ import annotations

import ast
from contextlib import nullcontext
from pathlib import Path

import pytest

from stand_ins.tensorrt import module
from support import tensorrt_names

PACKAGE = Path(__file__).parents[3] / "bidiff_deploy" / "engines" / "tensorrt"


def test_every_name_that_is_asked_for_is_some_versions() -> None:
    asked = {node.args[1].value for file in PACKAGE.rglob("*.py") if "_driver" not in file.name
             for node in ast.walk(ast.parse(file.read_text()))
             if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr")
             and isinstance(node.args[1], ast.Constant)}
    known = {name for table in tensorrt_names.tables().values()
             for names in (table["module"], *table["classes"].values()) for name in names}
    # Others are of Python, of the engines' own, or of the plugin library.
    assert {name for name in asked if not name.startswith(("_", "bidiff_"))} <= known
    assert len(asked & known) > 5


def test_the_stand_in_has_the_names_of_a_version() -> None:
    for name, template in module.TEMPLATES.items():
        # One that is misspelt would be left out of every version, unnoticed.
        assert {entry for entry in vars(template) if not entry.startswith("_")} <= {
            entry for table in tensorrt_names.tables().values()
            for entry in table["classes"].get(name, [])}, name
    for version, there in (("8.5.3", False), ("10.3.0", True)):
        trt = module.make(version)
        config = trt.IBuilderConfig.__new__(trt.IBuilderConfig)
        assert hasattr(trt, "IProgressMonitor") == there == hasattr(config, "progress_monitor")
        with nullcontext() if there else pytest.raises(AttributeError):
            config.progress_monitor = None
        # What it has not yet is no reason to take the version for another one.
        for owner, name in ((trt, "Refitter"), (config, "reset")):
            with pytest.raises(NotImplementedError):
                hasattr(owner, name)
