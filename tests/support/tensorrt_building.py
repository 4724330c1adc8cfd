"""What tests of ``bidiff-deploy build`` share: bundles to build, the command, what it says."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from bidiff_deploy.cli import group
from stand_ins import tensorrt as tensorrt_stand_in

OLD, NEW = "8.5.3", "11.4.0"  # without and with strong typing, and the oldest and newest tables


def run(*arguments, code: int = 0):
    """(stdout, stderr) of the command."""
    done = CliRunner().invoke(group, ["build", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def refusal(*arguments) -> str:
    """The sentence that the command ends with."""
    _, err = run(*arguments, code=1)
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0].removeprefix("error: ")


def how_built(place: Path, name: str) -> dict:
    header, _ = tensorrt_stand_in.read_plan((place / name).read_bytes())
    return header
