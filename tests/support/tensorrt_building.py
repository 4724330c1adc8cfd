"""What tests of TensorRT share: the stand-in's module, its plans and made up ones, and commands."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.cli import group
from bidiff_deploy.engines.tensorrt.profiles import Profile
from bidiff_deploy.engines.tensorrt.sidecar import RTX_VARIANTS, PlanInfo, PlanTarget
from stand_ins import tensorrt as tensorrt_stand_in
from support.seeds import examples

OLD, NEW = "8.5.3", "11.4.0"  # without and with strong typing, and the oldest and newest tables


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of plans that bundles look in."""
    monkeypatch.setenv("BIDIFF_TENSORRT_PLANS", str(tmp_path / "plans"))
    return tmp_path / "plans"


@pytest.fixture
def trt(request: pytest.FixtureRequest, place: Path, tmp_path: Path) -> Iterator[Any]:
    """``tensorrt`` of this process, of 10.3.0 unless ``versions`` says otherwise."""
    with tensorrt_stand_in.in_process(tmp_path, getattr(request, "param", "10.3.0")) as made:
        yield made


def versions(*names: str) -> Any:
    """The test for each of these versions."""
    return pytest.mark.parametrize("trt", names, indirect=True)


def run(*arguments: object, code: int = 0, command: str = "build") -> tuple[str, str]:
    """(stdout, stderr) of a command."""
    done = CliRunner().invoke(group, [command, *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def refusal(*arguments: object) -> str:
    """The sentence that the command ends with."""
    _, err = run(*arguments, code=1)
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0].removeprefix("error: ")


def how_built(plan: Path) -> tuple[dict[str, Any], Any]:
    """How the stand-in built a plan, and the graph."""
    from stand_ins.tensorrt.building import read_plan

    return read_plan(plan.read_bytes())


def static(*shape: int) -> Profile:
    return Profile(shape, shape, shape)


def build(bundle: Path, *profiles: Profile, variant: str = "plugin", **options: Any) -> None:
    """Plans of a bundle, by the function that the command calls."""
    from bidiff_deploy.engines.tensorrt.build.builder import build_plan

    for profile in profiles:
        build_plan(open_bundle(bundle), profile, variant=variant, quiet=True, **options)


# -- plans, sidecars and machines that tests make up --------------------------------------------

CONTENT = b"a plan"
STATIC = Profile(*[(1, 256, 256)] * 3)
RANGE = Profile((1, 64, 64), (1, 256, 256), (4, 512, 512))
SIDES = st.integers(1, 64).map(lambda number: 8 * number)
SHAPES = st.tuples(st.integers(1, 8), SIDES, SIDES)
REPEATABLE = examples(40)


def profiles() -> st.SearchStrategy[Profile]:
    """Three shapes in ascending order."""
    return st.tuples(*[st.lists(size, min_size=3, max_size=3).map(sorted)
                       for size in (st.integers(1, 8), SIDES, SIDES)]).map(
        lambda axes: Profile(*zip(*axes)))


def target(**changed) -> PlanTarget:
    return dataclasses.replace(PlanTarget("10.3.0", "Orin", (87,), "12.6", "a" * 64, 7, "b" * 64,
                                          "float16"), **changed)


def info(profile: Profile = STATIC, *, variant: str = "plugin", content: bytes = CONTENT,
         **changed) -> PlanInfo:
    """``content``: the plan's bytes; ``changed``: fields of PlanInfo or of its target."""
    tied = {field.name for field in dataclasses.fields(PlanTarget)} & changed.keys()
    without = {} if variant == "plugin" else {"plugin": None, "layout": None}
    without |= {"gpu": None, "driver": None} if variant in RTX_VARIANTS else {}
    built = target(**{name: changed.pop(name) for name in tied}, **without)
    return dataclasses.replace(PlanInfo(
        built, variant, profile, len(content), hashlib.sha256(content).hexdigest(), opset=17,
        level=None, workspace=None, seconds=1.5), **changed)
