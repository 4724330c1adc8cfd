"""Which names of TensorRT the engines touch, by the tables of real bindings: versions that are not
run have those of one that is, and the stand-in has a version's names and no others.

Versions that are run are those of test_tensorrt_engine.py: every variant is built and computes.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from stand_ins.tensorrt import module
from support import tensorrt_names

PACKAGE = Path(__file__).parents[3] / "bidiff_deploy" / "engines" / "tensorrt"
VERSIONS = tensorrt_names.VERSIONS


def written() -> tuple[set[str], set[str]]:
    """Attributes and texts anywhere in the engines' code, but for that on the driver's bindings,
    and those of them that hasattr and getattr are asked for."""
    words, asked = set(), set()
    for file in PACKAGE.rglob("[a-z]*.py"):
        if file.name.endswith("_driver.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr"):
                asked |= {str(one.value) for one in node.args[1:2] if isinstance(one, ast.Constant)}
    return words, asked


def names_of(version: str) -> set[tuple[str, str]]:
    """All names of a version, with their class."""
    table = tensorrt_names.table(version)
    return {(owner, name) for owner, names in (("", table["module"]), *table["classes"].items())
            for name in names}


@pytest.mark.parametrize("version", tensorrt_names.LIKE)
def test_a_version_that_is_not_run_is_like_one_that_is(version: str) -> None:
    words, asked = written()
    here, there = ({pair for pair in names_of(one) if pair[1] in words}
                   for one in (version, tensorrt_names.LIKE[version]))
    assert len(there) > 100 and here >= there, there - here
    # More names change nothing, unless the engines ask whether they are there.
    assert not asked & {name for _, name in here - there}


def test_every_name_that_is_asked_for_is_some_versions() -> None:
    known = {name for version in VERSIONS for _, name in names_of(version)}
    # Others are of Python, of the engines' own, or of the plugin library.
    assert {name for name in written()[1] if not name.startswith(("_", "bidiff_"))} <= known


@pytest.mark.parametrize("version", (*VERSIONS, tensorrt_names.RTX))
def test_the_stand_in_has_no_name_that_the_version_has_not(version: str) -> None:
    table, trt = tensorrt_names.table(version), module.make(version)
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
