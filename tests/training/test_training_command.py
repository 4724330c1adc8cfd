"""bidiff-deploy train: from a recipe to a bundle, its errors, and how signals end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from bidiff_deploy.cli import group as cli
from bidiff_deploy.training.loop import train
from bidiff_deploy.training.recipe import read_recipe
from support.forked import COMMAND, Forked
from support.training_setup import changed, states_equal


def run(*arguments: str | Path, code: int = 0, stdout: bool = False) -> str:
    """The output of the command: stdout alone, or stdout and stderr."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if stdout else result.output


def test_from_a_recipe_to_a_bundle_that_passes_check(folder):
    """40 iterations in two parts: the loss falls, the weights are those of one run, and what is
    exported computes what was trained."""
    tree = {**changed(
        run={"iterations": 40, "report_every": 10, "validate_every": 1000},
        network={"channel_mults": [1]}, optimizer={"learning_rate": 5e-3},
        data={"candidates": 1, "shuffle_colors": False, "validate": [],
              "train": [{"path": "photos/a.png", "box": [0, 0, 16, 18]}]}),
        "steps": [{"timestep": 60, "origin": "condition"}, {"timestep": 30, "origin": "sample"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    whole, part = folder / "whole", folder / "part"
    lines = run("train", folder / "recipe.yaml", "-o", whole, "--pack",
                folder / "net.safetensors").splitlines()
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if "  loss " in line]
    assert len(losses) == 4 and losses[-1] < 0.9 * losses[0]

    # The first half with the schedule of the whole, ended by SIGTERM, and then the rest.
    halted: list[str] = []

    def stop(line: str) -> None:
        halted.append(line)
        if line.startswith("iteration 20 "):
            signal.raise_signal(signal.SIGTERM)

    train(read_recipe(folder / "recipe.yaml"), folder, part, report=stop)
    assert any("iteration 20, stopped; continue with --resume" in line for line in halted)
    run("train", folder / "recipe.yaml", "-o", part, "--resume")
    states = [torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, part)]
    for state in states:
        assert state.pop("seconds") > 0
    assert states_equal(*states)

    run("export", folder / "net.safetensors", "-o", folder / "net.bundle")
    verdict = json.loads(run("check", folder / "net.bundle",
                             folder / "net.safetensors", "--size", "16x16", "--json",
                             stdout=True))
    assert verdict["passed"] and verdict["verdicts"], verdict["verdicts"]


@pytest.mark.parametrize("arguments, says", [
    (["none.yaml", "-o", "run"], "cannot be read"),
    (["recipe.yaml"], "-o"),
    (["recipe.yaml", "-o", "run", "--resume"], "no run to resume"),
    (["recipe.yaml", "-o", "run", "--pack", "net.pt"], "must end in .safetensors"),
    (["recipe.yaml", "-o", "run", "--pack", "there.safetensors"], "already exists"),
    (["recipe.yaml", "-o", "photos/a.png"], "a.png"),
    (["recipe.yaml", "-o", "run", "--set", "data.train=[gone]"], "no such photo or folder"),
    (["recipe.yaml", "-o", "run", "--measure"], "--measure trains nothing"),
])
def test_the_command_refuses_in_a_sentence(folder, monkeypatch, arguments, says):
    monkeypatch.chdir(folder)
    (folder / "there.safetensors").touch()
    output = run("train", *arguments, code=1)
    error = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and says in error[0], output
    assert not (folder / "run").exists()


def test_sigterm_saves_and_ends(folder):
    """As a batch system ends a job, in a separate process."""
    out = folder / "run"
    process = Forked(COMMAND, "train", folder / "recipe.yaml", "-o", out, "--set",
                     "run.iterations=1000000", "--set", "run.validate_every=1000000")
    try:
        while "it/s" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.kill()
    assert "stopped; continue with --resume" in process.stderr.read()
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["iteration"] >= 2
    assert [path.name for path in out.iterdir() if "tfevents" not in path.name] == [
        "checkpoint.pt"]


def test_a_measured_step_needs_no_photos(folder):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(changed(data={"train": ["gone"]})))
    found = json.loads(run("train", folder / "recipe.yaml", "--measure", "--json",
                           stdout=True))
    assert found["batch"] == 2 and found["crop"] == 16 and found["device"] == "cpu"
    assert found["images_per_second"] == pytest.approx(2 / found["seconds_per_iteration"])
    assert found["peak_memory_bytes"] > 1e8 and 0 < found["binary_parameters"] < found["parameters"]
    text = run("train", folder / "recipe.yaml", "--measure")
    assert "images/s" in text and "MiB" in text
    assert sorted(path.name for path in folder.iterdir()) == ["photos", "recipe.yaml"]


def test_help_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch', name='torch')")
    environment = {**os.environ,
                   "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    for arguments, code, says in ((["--help"], 0, "RECIPE"),
                                  (["r.yaml", "-o", "x"], 1, "bidiff-deploy[train]")):
        result = subprocess.run([sys.executable, "-m", "bidiff_deploy", "train", *arguments],
                                env=environment, capture_output=True, text=True)
        assert result.returncode == code and says in result.stdout + result.stderr
