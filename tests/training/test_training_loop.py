"""Runs learn, resume, keep their checkpoints, and report errors in one sentence."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from bidiff_deploy.errors import CheckpointError, OutputError, UsageError
from bidiff_deploy.images.metrics import psnr_y, ssim_y
from bidiff_deploy.training.loop import train
from bidiff_deploy.training.optimizer import learning_rate
from bidiff_deploy.training.recipe import Optimizer, recipe_from_dict
from bidiff_deploy.training.trainer import Trainer
from support.training_setup import (
    TREE,
    TWO_LEVELS,
    changed,
    silent,
    states_equal,
    train_until,
)


def load(path) -> dict:
    return torch.load(path, weights_only=True)


def gradient(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in trainer.network.parameters()])


def test_learning_rate_warms_up_and_falls(folder):
    trainer = Trainer(recipe_from_dict(changed(
        run={"iterations": 100}, optimizer={"warmup": 9, "final_share": 0.1})), folder)
    rates = []
    for trainer.iteration in range(101):
        rates.append(trainer.learning_rate())
    assert rates[0] == pytest.approx(2e-4) and rates[100] == pytest.approx(2e-4)
    assert np.argmax(rates) in (9, 10) and all(np.diff(rates[10:]) < 0)
    trainer.iteration, trainer.seconds = 0, 30.0
    trainer.recipe = recipe_from_dict(changed(run={"minutes": 1.0}))
    assert trainer.progress == pytest.approx(0.5)


def test_schedules_without_an_end():
    constant = Optimizer(learning_rate=0.5, schedule="constant", warmup=1)
    assert [learning_rate(constant, i, p) for i, p in ((0, 0), (1, 0.1), (99, 1))] == [
        0.25, 0.5, 0.5]
    steps = Optimizer(learning_rate=1.0, schedule="multistep", milestones=(3, 5), gamma=0.1)
    assert [learning_rate(steps, i, i / 7) for i in range(7)] == pytest.approx(
        [1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_training_learns(folder):
    """Overfitting one small image: most of the noise is predicted, and the image improves."""
    box = {"path": "photos/a.png", "box": [0, 0, 16, 18]}
    tree = {**changed(
        data={"candidates": 1, "shuffle_colors": False, "train": [box], "validate": [box]},
        network={"dropout": 0.0, "channel_mults": [1]},
        run={"iterations": 400, "batch": 2}, optimizer={"learning_rate": 4e-3, "warmup": 10}),
        "steps": [{"timestep": 60, "origin": "condition"}]}
    trainer = Trainer(recipe_from_dict(tree), folder)
    (before,) = trainer.validate()
    losses = [trainer.train_once()["loss"] for _ in range(80)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    (after,) = trainer.validate()
    assert after["network"] > before["network"] + 5 and after["bicubic"] == before["bicubic"]
    assert [shown.shape for shown in after["images"]] == [(16, 18, 3)] * 3


def test_a_run_resumes_bit_for_bit(folder):
    whole, part = folder / "whole", folder / "part"
    recipe = recipe_from_dict(changed(network=TWO_LEVELS))
    lines: list[str] = []
    train(recipe, folder, whole, report=lines.append)

    train_until(2, recipe, folder, part)
    stopped = load(part / "checkpoint.pt")
    assert stopped["iteration"] == 2
    train(recipe, folder, part, resume=True, report=lines.append)
    states = [load(path / "checkpoint.pt") for path in (whole, part)]
    for state in states:
        assert state.pop("seconds") > 0 and state["iteration"] == 6
    assert states_equal(*states)
    assert not states_equal(stopped["params"], states[0]["params"])
    logs = [list(csv.DictReader((path / "log.csv").open())) for path in (whole, part)]
    assert [row["iteration"] for row in logs[0]] == ["3", "6"]
    for row, again in zip(*logs):
        assert all(np.isfinite(float(value)) for value in row.values())
        assert row["psnr_y"] == again["psnr_y"]
    assert any("it/s" in line and "images/s" in line and "left" in line for line in lines)
    assert not list(whole.glob(".*"))


def test_accumulated_parts_are_the_batch(folder):
    """Loss and gradient of an iteration, up to the order of float32 sums of the same numbers."""
    found = []
    for accumulate in (1, 2, 4):
        trainer = Trainer(recipe_from_dict(changed(
            network={**TWO_LEVELS, "dropout": 0.0},
            run={"batch": 4, "accumulate": accumulate})), folder)
        loss = trainer.train_once()["loss"]
        found.append((loss, gradient(trainer)))
    for loss, parts in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        assert (parts - found[0][1]).norm() < 1e-5 * parts.norm()


def test_without_averaging_the_average_is_the_network(folder):
    trainer = Trainer(recipe_from_dict(changed(optimizer={"ema": 0.0})), folder)
    trainer.train_once()
    assert all(map(torch.equal, trainer.average.parameters(), trainer.network.parameters()))
    trainer = Trainer(recipe_from_dict(TREE), folder)
    trainer.train_once()
    assert not all(map(torch.equal, trainer.average.parameters(), trainer.network.parameters()))


def test_clipping_bounds_the_gradient(folder):
    norms = []
    for clip in (0.0, 0.01):
        trainer = Trainer(recipe_from_dict(changed(optimizer={"clip_norm": clip})), folder)
        trainer.train_once()
        norms.append(float(gradient(trainer).norm()))
    assert norms[0] > 0.05 and norms[1] == pytest.approx(0.01, rel=1e-3)


def test_divergence_is_reported(folder):
    trainer = Trainer(recipe_from_dict(TREE), folder)
    with torch.no_grad():
        trainer.network.head.conv.weight.fill_(float("nan"))
    with pytest.raises(UsageError, match="training diverged at iteration 0; lower"):
        trainer.train_once()


def test_runs_that_are_refused(folder):
    tree = changed(run={"iterations": 1})
    recipe, out = recipe_from_dict(tree), folder / "run"
    with pytest.raises(OutputError, match="no run to resume"):
        train(recipe, folder, out, resume=True)
    assert not out.exists()
    train(recipe, folder, out, report=silent)
    with pytest.raises(OutputError, match="exists; continue it with --resume"):
        train(recipe, folder, out)
    other = recipe_from_dict({**tree, "optimizer": {**tree["optimizer"], "learning_rate": 1e-3}})
    with pytest.raises(CheckpointError, match=r"another recipe \(optimizer differ\)"):
        train(other, folder, out, resume=True)
    # Changes nothing that is trained.
    looked_at = recipe_from_dict({**tree, "data": {**tree["data"], "validate": []}})
    train(looked_at, folder, out, resume=True, report=silent)
    for damage in (b"", b"not torch", (out / "checkpoint.pt").read_bytes()[:2000]):
        (out / "checkpoint.pt").write_bytes(damage)
        with pytest.raises(CheckpointError, match="cannot be read as a training checkpoint"):
            train(recipe, folder, out, resume=True)
    torch.save({"params": {}}, out / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="contains no training state"):
        train(recipe, folder, out, resume=True)


@pytest.mark.parametrize("run, says", [
    ({"device": "cuda:99"}, "GPU 99 does not exist: torch finds"),
    ({"batch": 3, "accumulate": 2}, "run.batch=3 cannot be divided among 1 processes in 2"),
    ({"precision": "float16"}, "run.precision=float16 needs a GPU"),
])
def test_machines_that_cannot_run_it(folder, run, says):
    with pytest.raises(UsageError, match=says):
        train(recipe_from_dict(changed(run=run)), folder, folder / "run")
    assert not (folder / "run").exists()


def test_a_validation_that_does_not_fit_leaves_a_checkpoint(folder, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("no room")

    recipe = recipe_from_dict(changed(run={"iterations": 2, "validate_every": 1}))
    out = folder / "run"
    train(recipe, folder, folder / "whole", report=silent)
    lines: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr("bidiff_deploy.training.diffusion.DiffusionTask.restored", exhausted)
        with pytest.raises(UsageError, match="validating a.png, 20x30 pixels, does not fit into "
                                             "the memory of cpu; give it a box"):
            train(recipe, folder, out, report=lines.append)
    assert lines[-1].endswith("checkpoint.pt: iteration 1, saved before ending")
    train(recipe, folder, out, resume=True, report=silent)
    whole, again = load(folder / "whole/checkpoint.pt"), load(out / "checkpoint.pt")
    assert states_equal(whole["params"], again["params"])


def test_a_resume_with_another_batch_or_seed_is_refused(folder):
    out = folder / "run"
    train(recipe_from_dict(changed(run={"iterations": 2})), folder, out, report=silent)
    for run, says in (({"batch": 4}, r"was made with run.batch=2, on which"),
                      ({"seed": 1}, r"was made with run.seed=0, on which"),
                      ({"batch": 4, "seed": 1}, r"was made with run.batch=2, run.seed=0, on")):
        with pytest.raises(CheckpointError, match=says):
            train(recipe_from_dict(changed(run=run)), folder, out, resume=True)
    lines: list[str] = []
    train(recipe_from_dict(changed(run={"iterations": 3, "precision": "bfloat16"})), folder, out,
          resume=True, report=lines.append)
    assert "run.precision changes from float32 to bfloat16" in lines
    lines.clear()
    train(recipe_from_dict(changed(run={"iterations": 3, "precision": "bfloat16"})), folder, out,
          resume=True, report=lines.append)
    assert not [line for line in lines if "precision" in line]


def test_a_checkpoint_that_lacks_a_part_is_refused(folder):
    recipe, out = recipe_from_dict(changed(run={"iterations": 1})), folder / "run"
    state = load(train(recipe, folder, out, report=silent))
    for key in ("scaler", "seconds", "best"):
        torch.save({name: value for name, value in state.items() if name != key},
                   out / "checkpoint.pt")
        with pytest.raises(CheckpointError, match="contains no training state"):
            train(recipe, folder, out, resume=True)


def test_what_a_validation_measures(folder):
    recipe, lines = recipe_from_dict(changed(run={"iterations": 1})), []
    train(recipe, folder, folder / "run", report=lines.append)
    trainer = Trainer(recipe, folder)
    trainer.load_state(load(folder / "run/checkpoint.pt"))
    (pair,), (found,) = trainer.pairs, trainer.validate()
    image = trainer.task.restored(trainer.average, pair)
    assert found["network"] == psnr_y(image, pair.high, 2)
    assert found["ssim_y"] == ssim_y(image, pair.high, 2) and 0 < found["ssim_y"] < 1
    assert any(line.endswith(f"over bicubic, SSIM-Y {found['ssim_y']:.4f}") for line in lines)
    (row,) = csv.DictReader((folder / "run/log.csv").open())
    assert row["ssim_y"] == f"{found['ssim_y']:.4f}"


def test_a_photo_too_small_for_ssim_is_validated(folder):
    small = {"path": "photos/a.png", "box": [0, 0, 12, 12]}
    recipe, lines = recipe_from_dict(changed(data={"validate": [small]},
                                             run={"iterations": 1})), []
    train(recipe, folder, folder / "run", report=lines.append)
    assert any(line.endswith("dB over bicubic") for line in lines)
    (row,) = csv.DictReader((folder / "run/log.csv").open())
    assert row["ssim_y"] == "nan" and np.isfinite(float(row["psnr_y"]))
