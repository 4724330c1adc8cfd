"""What tests on the stand-in for TensorRT share: its module, plans, and ``bidiff-deploy build``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.cli import group
from bidiff_deploy.engines.tensorrt.profiles import Profile
from stand_ins import tensorrt as tensorrt_stand_in

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
