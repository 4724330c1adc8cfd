"""Names of TensorRT by the tables of real bindings: the stand-in has a version's names and no
others, and test_tensorrt_engine.py builds and runs with those of each version."""

from __future__ import annotations

import ast
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


@pytest.mark.parametrize("version", tensorrt_names.tables())
def test_the_stand_in_has_no_name_that_the_version_has_not(version: str) -> None:
    table, trt = tensorrt_names.tables()[version], module.make(version)
    assert {name for name in vars(trt) if not name.startswith("_")} <= set(table["module"])
    for name, template in module.TEMPLATES.items():
        mine = {entry for entry in vars(template) if not entry.startswith("_")}
        # A name that is misspelt here would be left out of every version, unnoticed.
        assert mine <= {entry for one in tensorrt_names.tables().values()
                        for entry in one["classes"].get(name, [])}, name
        if name not in table["classes"]:
            continue
        made = vars(trt)[name]
        gone = mine & vars(made).keys()
        assert mine - gone <= {*table["classes"][name]}, name
        for entry in gone:
            with pytest.raises(AttributeError):
                getattr(made.__new__(made), entry)
            with pytest.raises(AttributeError):
                setattr(made.__new__(made), entry, 3)
    # What the version has and the stand-in has not is no reason to take it for another version.
    for owner, name in ((trt, "Refitter"), (trt.Runtime.__new__(trt.Runtime), "max_threads")):
        with pytest.raises(NotImplementedError):
            hasattr(owner, name)
