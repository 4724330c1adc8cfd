"""Checkpoints that are kept, on a full disk too, and packed checkpoints made from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import CheckpointError, OutputError
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.training.checkpoints import Checkpoints
from bidiff_deploy.training.loop import train
from bidiff_deploy.training.networks.bi_diffsr import BiDiffSR
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.task import pack_run
from bidiff_deploy.training.trainer import Trainer
from bidiff_deploy.training.weights import load_network
from support import forked
from support.training_setup import TREE, changed, silent


def iteration(path: Path) -> int:
    return torch.load(path, weights_only=True)["iteration"]


def test_the_last_and_the_best_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for number in range(1, 6):
        checkpoints.save({"iteration": number}, best=number == 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.pt", "checkpoint.pt", "checkpoint_00000003.pt", "checkpoint_00000004.pt"]
    assert [iteration(path) for path in (
        checkpoints.newest, *checkpoints.older(), tmp_path / "best.pt")] == [5, 3, 4, 2]
    Checkpoints(tmp_path, keep=2, iteration=5).save({"iteration": 6})  # a resume keeps fewer
    assert [iteration(path) for path in checkpoints.older()] == [5]
    Checkpoints(tmp_path, iteration=6).save({"iteration": 6})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "checkpoint.pt"]


def test_where_a_file_has_one_name_it_is_copied(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (1, 2):
        checkpoints.save({"iteration": number}, best=True)
    assert [iteration(tmp_path / name) for name in (
        "best.pt", "checkpoint.pt", "checkpoint_00000001.pt")] == [2, 2, 1]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save({"iteration": 1})
    with pytest.raises(AttributeError):
        checkpoints.save({"iteration": 2, "lambda": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert iteration(checkpoints.newest) == 1


def test_what_a_killed_run_left_is_removed(folder):
    out = folder / "run"
    out.mkdir()
    kept = ["checkpoint.pt.tmp", ".checkpoint.pt.tmp", ".photo.png.0123abcd.tmp",
            ".checkpoint.pt.0123abcd.bidiff.tmp.pt"]
    for name in (*kept, ".checkpoint.pt.0123abcd.bidiff.tmp", ".best.pt.ffffffff.bidiff.tmp"):
        (out / name).write_text("half")
    recipe = recipe_from_dict(changed(run={"iterations": 1}))
    train(recipe, folder, out, report=silent)
    (out / ".checkpoint.pt.00000000.bidiff.tmp").write_text("half")
    train(recipe, folder, out, resume=True, report=silent)
    assert {path.name for path in out.iterdir()} - {"checkpoint.pt", "log.csv"} - {
        path.name for path in out.glob("events.*")} == set(kept)


def test_the_best_is_by_validated_psnr(folder):
    out = folder / "run"
    recipe = recipe_from_dict(changed(run={"iterations": 3, "validate_every": 1,
                                           "keep_best": True}))
    scores: list[float] = []

    def report(line: str) -> None:
        if "PSNR-Y" in line:
            scores.append(float(line.split("PSNR-Y ")[1].split()[0]))

    train(recipe, folder, out, report=report)
    best = torch.load(out / "best.pt", weights_only=True)
    assert len(scores) == 3 and scores[best["iteration"] - 1] == max(scores)  # of two decimals
    assert best["best"] == pytest.approx(max(scores), abs=0.006)


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
from bidiff_deploy.cli import main
sys.argv[1:] = {arguments!r}
main()
"""


def test_a_full_disk_leaves_the_last_checkpoint(folder):
    """In a separate process, whose files are limited to 50 kB: write() fails as on a full disk."""
    out = folder / "run"
    train(recipe_from_dict(changed(run={"iterations": 1})), folder, out, report=silent)
    before = (out / "checkpoint.pt").read_bytes()
    arguments = ["train", str(folder / "recipe.yaml"), "-o", str(out), "--resume"]
    done = forked.python(_LIMITED.format(arguments=arguments), torch=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1 and len(errors) == 1, done.stderr
    assert "cannot write" in errors[0] and "checkpoint.pt" in errors[0]
    assert "Traceback" not in done.stderr
    assert (out / "checkpoint.pt").read_bytes() == before
    assert not [path.name for path in out.iterdir() if path.name.endswith(".tmp")]


def test_packed_and_plain_checkpoints_are_the_averaged_network(folder):
    recipe = recipe_from_dict(changed(run={"iterations": 1}))
    out = train(recipe, folder, folder / "run", report=silent)
    pack_run(out, recipe, folder / "net.safetensors")
    with pytest.raises(OutputError, match="already exists"):
        pack_run(out, recipe, folder / "net.safetensors")
    trainer = Trainer(recipe, folder)
    trainer.load_state(torch.load(out, weights_only=True))
    noisy, condition = torch.randn(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    expected = BiDiffSR(trainer.recipe.network).eval()  # not in the trainer's memory layout
    expected.load_state_dict(trainer.average.state_dict())
    packed = load_network(folder / "net.safetensors").eval()
    plain = load_network(out, Options(network=TREE["network"])).eval()
    with torch.no_grad():
        for network in (packed, plain):
            assert torch.equal(network(noisy, condition, 44), expected(noisy, condition, 44))
    found = read_checkpoint(folder / "net.safetensors")
    assert found.config == NetworkConfig(**TREE["network"]) and found.scale == 2
    assert found.sampling == {"timesteps": [44, 36], "start": 44}
    assert found.schedule["total_steps"] == 80


def test_training_continues_from_a_packed_checkpoint(folder):
    recipe = recipe_from_dict(TREE)
    out = train(recipe, folder, folder / "run", report=silent)
    pack_run(out, recipe, folder / "net.safetensors")
    trainer = Trainer(recipe_from_dict({**TREE, "initial": "net.safetensors"}), folder)
    expected = load_network(folder / "net.safetensors")
    assert all(map(torch.equal, trainer.network.parameters(), expected.parameters()))
    trainer.train_once()
    other = {**changed(network={"dynamic_group": 10}), "initial": "net.safetensors"}
    with pytest.raises(CheckpointError, match="its network options differ from the recipe's"):
        Trainer(recipe_from_dict(other), folder)
