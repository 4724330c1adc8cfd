"""Every name of TensorRT that the engines use exists in every version that they use it in: what is
written down by the tables of real bindings, what is done by a build and a run on the stand-in of
each version that differs, whose objects have the names of these tables and no others."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stand_ins import tensorrt as tensorrt_stand_in
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


# Versions that are run, whole or one variant, and those that differ from one of them in no name
# that the engines could touch.
WHOLE, PART = ("8.5.3", "10.0.1", "11.4.0"), ("10.3.0",)


def reached(version: str, words: set[str]) -> set[tuple[str, str]]:
    """Of ``words``, which names there are in that version, with their class."""
    table = tensorrt_names.table(version)
    return {(owner, name) for owner, names in (("", table["module"]), *table["classes"].items())
            for name in names if name in words}


def test_a_version_that_is_not_run_is_like_one_that_is() -> None:
    assert sorted((*WHOLE, *PART, *tensorrt_names.LIKE)) == sorted(VERSIONS)
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


# A build and a run of each variant, or of the first alone, in one process a version.
BUILD_AND_RUN = """
import json, sys, warnings
import numpy as np
from click.testing import CliRunner
from bidiff_deploy import load_bundle
from bidiff_deploy.cli import group

path, half, whole = sys.argv[1:]
told = {}
rng = np.random.default_rng(0)
noisy, condition = rng.standard_normal((2, 1, 3, 16, 16)).astype(np.float32)
for backend, options in {
        "tensorrt": ["--min", "8x8", "--opt", "16x16", "--max", "32x24", "--workspace", "1GB"],
        "tensorrt-dense": ["--size", "16x16", "--no-plugin"],
        "tensorrt-dense-int8": ["--size", "16x16", "--no-plugin", "--int8"]}.items():
    if backend != "tensorrt" and whole != "whole":
        continue
    for bundle in (path, half) if whole == "whole" else (half,):
        done = CliRunner().invoke(group, ["build", bundle, "--json", *options])
        assert done.exit_code == 0, done.output
        with load_bundle(bundle, backend="onnxruntime") as cpu:
            timestep = cpu.timesteps[0]
            wanted = cpu.predict(noisy, condition, timestep)
            image = cpu.sample(condition[0], seed=1)
        with load_bundle(bundle, backend=backend) as engine:
            found = [engine.predict(noisy, condition, timestep) for _ in range(3)]
            images = [engine.sample(condition[0], seed=1) for _ in range(3)]
        def snr(reference, other):
            noise = ((reference - other) ** 2).sum()
            return 200.0 if noise == 0 else float(10 * np.log10((reference ** 2).sum() / noise))
        told[f"{backend} {'half' if bundle == half else 'exact'}"] = [
            min(snr(wanted, one) for one in found), min(snr(image, one) for one in images)]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def bundles(reference) -> list[str]:
    return [str(reference.bundle("tiny", (7, 3), precision))
            for precision in ("exact", "half")]


@pytest.mark.parametrize("version", (*WHOLE, *PART))
def test_every_name_that_a_build_and_a_run_touch_exists(version: str, bundles, tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    whole = version in WHOLE
    done = tensorrt_stand_in.run(BUILD_AND_RUN, tmp_path, *bundles, "whole" if whole else "part",
                                 version=version, BIDIFF_TENSORRT_PLANS=str(tmp_path / "plans"))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == (6 if whole else 1)
    for name, (prediction, image) in told.items():
        # float16: a flipped sign is a large part of a sum where channels are few.
        least = 100 if name.endswith("exact") else 13
        assert prediction > least and image > least, (name, prediction, image)
