"""Every name of TensorRT that the engines use exists in every version that they use it in, by the
tables of real bindings; and the stand-in has the names of a version's table, and no others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stand_ins.tensorrt import module
from support import tensorrt_names

ROOT = Path(__file__).parents[3]
# Two are about the driver's bindings, of which there are no tables.
FILES = sorted(set((ROOT / "bidiff_deploy" / "engines" / "tensorrt").rglob("[a-z]*.py"))
               - set((ROOT / "bidiff_deploy" / "engines" / "tensorrt").rglob("*_driver.py")))
VERSIONS = tensorrt_names.VERSIONS
# Names that only some versions have; the engines ask for each by hasattr, getattr or the version.
SOME = {
    "IProgressMonitor": lambda version: version >= (8, 6),
    "ExecutionContextAllocationStrategy": lambda version: version >= (10,),
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": lambda version: version < (11,),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": lambda version: version >= (10,),
    "OnnxParserFlag.NATIVE_INSTANCENORM": lambda version: version >= (10,),
    "ComputeCapability": lambda version: False,  # of TensorRT-RTX
    "BuilderFlag.FP16": lambda version: version < (11,),
    "BuilderFlag.INT8": lambda version: version < (11,),
    "BuilderFlag.PREFER_PRECISION_CONSTRAINTS": lambda version: version < (11,),
}


class Chains(ast.NodeVisitor):
    """``trt.A.B`` wherever it stands, also as ``api.trt.A.B``, or ``kinds = trt.A`` and then
    ``kinds.B``; and the texts that hasattr and getattr are asked for."""

    def __init__(self, tree: ast.AST) -> None:
        self.found: set[str] = set()
        self.asked: set[str] = set()
        self._aliases: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                self._assign(node)
        self.visit(tree)

    def _assign(self, node: ast.Assign) -> None:
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts))
        else:
            pairs = [(target, value)]
        for name, given in pairs:
            path = self.path(given)
            if isinstance(name, ast.Name) and path and name.id != "trt":
                self._aliases[name.id] = path

    def path(self, node: ast.AST) -> str | None:
        """"A.B" of an expression; "" of the module itself."""
        if isinstance(node, ast.Name):
            return "" if node.id == "trt" else self._aliases.get(node.id)
        if isinstance(node, ast.Attribute):
            before = self.path(node.value)
            if before is not None:
                return f"{before}.{node.attr}".lstrip(".")
            return "" if node.attr == "trt" else None
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if path := self.path(node):
            self.found.add(path)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if (isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr")
                and isinstance(node.args[1], ast.Constant)):
            self.asked.add(node.args[1].value)
        self.generic_visit(node)


def chains() -> Iterator[tuple[str, Chains]]:
    for file in FILES:
        yield file.name, Chains(ast.parse(file.read_text()))


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_walk_finds_chains() -> None:
    found = Chains(ast.parse("""
def one(api, trt):
    kinds, other = api.trt.Kinds, 3
    x = self._api.trt.A.B(trt.C, kinds.D, getattr(trt.E, "F", None)).G
    other.H
"""))
    assert found.found == {"Kinds", "A.B", "C", "Kinds.D", "E"} and found.asked == {"F"}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_is_written_exists(version: str) -> None:
    used = {chain for _, found in chains() for chain in found.found}
    assert len(used) > 15  # the walk still finds them
    for chain in sorted(used):
        there = tensorrt_names.has(version, *chain.split("."))
        wanted = SOME.get(chain) or SOME.get(chain.split(".")[0])
        assert there == (wanted is None or wanted(numbers(version))), chain


def test_every_name_that_is_asked_for_is_some_versions() -> None:
    known = {name for version in VERSIONS for name in tensorrt_names.table(version)["module"]}
    known |= {name for version in VERSIONS
              for names in tensorrt_names.table(version)["classes"].values() for name in names}
    for file, found in chains():
        # Others are of Python, of the engines' own, or of the plugin library.
        asked = {name for name in found.asked if not name.startswith(("_", "bidiff_"))}
        assert asked <= known, file
    assert set(SOME) <= {name for _, found in chains() for name in (*found.found, *found.asked)}


def reached(version: str, words: set[str]) -> set[tuple[str, str]]:
    """Of ``words``, which names there are in that version, with their class."""
    table = tensorrt_names.table(version)
    return {(owner, name) for owner, names in (("", table["module"]), *table["classes"].items())
            for name in names if name in words}


def test_a_version_that_is_not_run_is_like_one_that_is() -> None:
    """Those that are run are in test_tensorrt_engine.py: every variant is built and computes on the
    stand-in, whose objects have the names of these tables and no others."""
    words, asked = set(), set()
    for file in FILES:
        tree = ast.parse(file.read_text())
        words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        words |= {node.value for node in ast.walk(tree)
                  if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        asked |= Chains(tree).asked
    for version, other in tensorrt_names.LIKE.items():
        here, there = reached(version, words), reached(other, words)
        assert here >= there, (version, there - here)
        # More names change nothing, unless the engines ask whether they are there.
        assert not asked & {name for _, name in here - there}, version


@pytest.mark.parametrize("version", (*VERSIONS, tensorrt_names.RTX))
def test_the_stand_in_has_no_name_that_the_version_has_not(version: str) -> None:
    table, trt = tensorrt_names.table(version), module.make(version)
    assert {name for name in vars(trt) if not name.startswith("_")} <= set(table["module"])
    for name, template in module.TEMPLATES.items():
        mine = {entry for entry in vars(template) if not entry.startswith("_")}
        made = vars(trt).get(name)
        if name in table["classes"]:
            assert {entry for entry in mine if hasattr(made, entry)} <= {
                *table["classes"][name]}, name
        # A name that is misspelt here would be left out of every version, unnoticed.
        assert mine <= {entry for one in tensorrt_names.tables().values()
                        for entry in one["classes"].get(name, [])}, name
    with pytest.raises(AttributeError):
        _ = trt.IProgressMonitors
    with pytest.raises(NotImplementedError):
        _ = trt.Refitter
    with pytest.raises(NotImplementedError):
        _ = trt.Runtime.__new__(trt.Runtime).max_threads
    if version == "8.5.3":
        config = trt.IBuilderConfig.__new__(trt.IBuilderConfig)
        with pytest.raises(AttributeError):
            config.builder_optimization_level = 3
