"""Recipes, the training loop, its checkpoints, and the command around them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from bidiff_deploy.architecture import NetworkConfig  # noqa: E402
from bidiff_deploy.checkpoint import read_checkpoint  # noqa: E402
from bidiff_deploy.cli import group as cli  # noqa: E402
from bidiff_deploy.errors import CheckpointError, OutputError, UsageError  # noqa: E402
from bidiff_deploy.options import Options  # noqa: E402
from bidiff_deploy.sampler import ddim_update, sample  # noqa: E402
from bidiff_deploy.training.loop import Trainer, train  # noqa: E402
from bidiff_deploy.training.network import BiDiffSR  # noqa: E402
from bidiff_deploy.training.recipe import Photo, read_recipe, recipe_from_dict  # noqa: E402
from bidiff_deploy.training.state import load_network, write_packed  # noqa: E402
from bidiff_deploy.training.validate import as_predict  # noqa: E402

SHIPPED = Path(__file__).parent.parent / "training"
TREE = {
    "scale": 2,
    "network": {"inner_channel": 8, "norm_groups": 2, "channel_mults": [1, 2], "res_blocks": 1,
                "dropout": 0.1, "image_size": 64, "fp_res": [64], "total_step": 200,
                "dynamic_group": 20},
    "data": {"crop": 16, "candidates": 2, "shuffle_colors": True, "train": ["photos"],
             "validate": [{"path": "photos/a.png", "box": [0, 0, 21, 30]}]},
    "steps": [{"timestep": 12, "origin": "condition", "share": 2},
              {"timestep": 6, "origin": "sample"}],
    "optimizer": {"learning_rate": "2e-3", "warmup": 2, "ema": 0.9},
    "run": {"iterations": 6, "batch": 2, "threads": 1, "report_every": 2, "validate_every": 3},
}


def changed(**groups) -> dict:
    """TREE with keys of its groups replaced, e.g. ``run={"batch": 1}``."""
    return {**TREE, **{key: {**TREE[key], **value} if isinstance(value, dict) else value
                       for key, value in groups.items()}}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3) with edges and gradients, so that bicubic loses something."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * (0.2 + 0.1 * c) + seed) + np.cos(y * (0.3 + 0.05 * c)) for c in range(3)]
    edges = ((x // 5 + y // 7) % 2)[..., None] * 60
    return (90 + 40 * np.stack(waves, -1) + edges).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture(40, 50)).save(tmp_path / "photos" / "a.png")
    Image.fromarray(picture(33, 34, seed=2)[..., 0]).save(tmp_path / "photos" / "grey.png")
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TREE))
    return tmp_path


def states_equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(states_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(states_equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# Recipes

def test_recipe_round_trip_and_settings(folder):
    recipe = read_recipe(folder / "recipe.yaml", ["run.batch=4", "optimizer.learning_rate=5e-4"])
    assert recipe.run.batch == 4 and recipe.optimizer.learning_rate == 5e-4
    assert recipe.data.train == (Photo("photos"),)
    assert recipe.timesteps == (12, 6) and recipe.start == 12
    assert recipe.schedule.total_steps == 200
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_a_number_of_steps_is_evenly_spaced():
    recipe = recipe_from_dict({**TREE, "steps": 4, "uniform": 1})
    assert recipe.timesteps == (150, 100, 50, 0) and recipe.start is None
    assert {step.origin for step in recipe.steps} == {"photo"}


@pytest.mark.parametrize("tree, says", [
    ({**TREE, "stepz": []}, r"unknown key stepz in recipe; known are .*steps"),
    (changed(run={"bach": 1}), "unknown key bach in run; known are batch"),
    (changed(network={"depth": 3}), "unknown network option depth"),
    (changed(network={"channel_mults": [1, 3]}), "must double"),
    (changed(data={"train": [{"path": "a", "boxes": []}]}),
     r"unknown key boxes in data.train\[0\]"),
    (changed(data={"train": [{"box": [0, 0, 1, 1]}]}), r"data.train\[0\] lacks path"),
    (changed(data={"train": []}), "names no photo"),
    (changed(data={"crop": 18}), "data.crop=18 must be a multiple of 4"),
    (changed(data={"train": "photos"}), "data.train must be a list"),
    (changed(run={"batch": 2.5}), "run.batch must be a whole number, not 2.5"),
    (changed(run={"batch": True}), "run.batch must be a whole number, not True"),
    (changed(run={"batch": 0}), "batch must be 1 or more"),
    (changed(optimizer={"learning_rate": "fast"}), "learning_rate must be a number, not 'fast'"),
    (changed(optimizer={"ema": 1.0}), r"ema in \[0, 1\)"),
    ({**TREE, "steps": [{"timestep": 6}, {"timestep": 12}]}, "descending"),
    ({**TREE, "steps": [{"timestep": 200}]}, "outside the schedule"),
    ({**TREE, "steps": []}, "empty"),
    ({**TREE, "steps": [{"timestep": 6, "origin": "sample"}]}, "nothing precedes it"),
    ({**TREE, "steps": [{"timestep": 6, "origin": "noise"}]}, "origin must be one of"),
    ({**TREE, "betas": [0.5]}, "betas must be the first and the last"),
    ({**TREE, "betas": [0.5, 0.1]}, "swap them"),
    ({**TREE, "scale": 1}, "scale must be 2 to 8"),
    ({key: value for key, value in TREE.items() if key != "steps"}, "lacks steps"),
    ({**TREE, "run": 3}, "run must be a mapping"),
])
def test_recipes_that_are_refused(tree, says):
    with pytest.raises(UsageError, match=says) as caught:
        recipe_from_dict(tree, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text, says", [
    ("a: [", "is no YAML"), ("- 1", "a recipe is a mapping"), ("", "a recipe is a mapping"),
    ("!!python/object/apply:os.getcwd []", "is no YAML"), (b"\xff\xfe\x00", "is no YAML")])
def test_files_that_are_no_recipe(tmp_path, text, says):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=says) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("setting, says", [
    ("run.batch", "write it as key=value"), ("run.batch.size=3", "is not a group"),
    ("run.batch=[", "the value is no YAML"), ("run.steps=3", "unknown key steps in run")])
def test_settings_that_are_refused(folder, setting, says):
    with pytest.raises(UsageError, match=says):
        read_recipe(folder / "recipe.yaml", [setting])


def test_the_shipped_recipe_keeps_the_demo_photos_out():
    recipe = read_recipe(SHIPPED / "demo_x2.yaml")
    trained = {Path(photo.path).name for photo in recipe.data.train}
    shown = {path.name for path in (SHIPPED / "photos").iterdir()}
    assert len(shown) >= 2 and not shown & trained
    assert not shown & {Path(photo.path).name for photo in recipe.data.validate}
    boxes = {photo.path: photo.box for photo in recipe.data.train}
    for photo in recipe.data.validate:  # of a photo that is trained on too, another part
        top, left, height, width = photo.box
        if photo.path in boxes:
            y, x, h, w = boxes[photo.path]
            assert x + w <= left or left + width <= x or y + h <= top or top + height <= y


# The loop

def test_targets_lead_back_to_the_photo(folder):
    """x_t minus the target's share is the photo, whatever x_t was made from."""
    trainer = Trainer(recipe_from_dict(TREE), folder)
    photo, condition = trainer.crops.batch(0, 2)
    for origin in ("photo", "condition", "sample"):
        recipe = recipe_from_dict({**TREE, "steps": [
            {"timestep": 60, "origin": "condition"}, {"timestep": 30, "origin": origin}]})
        trainer.recipe = recipe
        noisy, noise = trainer.noised(recipe.steps[1], photo, condition)
        alpha = float(recipe.schedule.alphas_cumprod[30])
        recovered = (noisy - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        assert torch.allclose(recovered, photo, atol=1e-5), origin
        residual = (noisy / alpha**0.5 - (condition if origin == "condition" else photo)).std()
        if origin != "sample":
            assert residual == pytest.approx(((1 - alpha) / alpha) ** 0.5, rel=0.1)


def test_the_samplers_latent_is_what_the_later_step_is_trained_on(folder):
    """Against bidiff_deploy.sampler: the image it ends with follows from that latent."""
    trainer = Trainer(recipe_from_dict(changed(network={"dropout": 0.0})), folder)
    trainer.network.eval()
    _, condition = trainer.crops.batch(0, 2)
    noise = torch.randn(condition.shape, generator=trainer.generator)
    latent = trainer._sampled(1, condition, noise).numpy()
    predict, recipe = as_predict(trainer.network), trainer.recipe
    expected = sample(predict, condition.numpy(), recipe.timesteps, recipe.schedule,
                      noise.numpy(), start=12, clamp=False)
    last = predict(latent, condition.numpy(), 6)
    found = ddim_update(latent, last, recipe.schedule.alphas_cumprod[6], 1.0)
    np.testing.assert_array_equal(found, expected)


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


def test_training_learns(folder):
    """Overfitting one small picture: most of the noise is found, and the picture improves."""
    box = {"path": "photos/a.png", "box": [0, 0, 16, 18]}
    tree = {**changed(
        data={"candidates": 1, "shuffle_colors": False, "train": [box], "validate": [box]},
        network={"dropout": 0.0, "inner_channel": 16, "channel_mults": [1]},
        run={"iterations": 400, "batch": 4}, optimizer={"learning_rate": 4e-3, "warmup": 10}),
        "steps": [{"timestep": 60, "origin": "condition"}]}
    trainer = Trainer(recipe_from_dict(tree), folder)
    before = trainer.validate()[0]
    losses = [trainer.train_once() for _ in range(120)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert trainer.validate()[0] > before + 5


def test_the_published_way_trains_at_all_timesteps(folder):
    tree = {**changed(network={"dynamic_group": 4}), "steps": 4, "uniform": 1.0}
    trainer = Trainer(recipe_from_dict(tree), folder)
    drawn = {trainer._drawn_step() for _ in range(400)}
    assert {step.origin for step in drawn} == {"photo"}
    times = [step.timestep for step in drawn]
    assert min(times) < 10 and max(times) > 189 and len(times) > 100
    assert np.isfinite([trainer.train_once() for _ in range(3)]).all()


def test_divergence_is_told(folder):
    trainer = Trainer(recipe_from_dict(TREE), folder)
    with torch.no_grad():
        trainer.network.head.conv.weight.fill_(float("nan"))
    with pytest.raises(UsageError, match="training diverged at iteration 0; lower"):
        trainer.train_once()


def test_a_run_resumes_bit_for_bit(folder):
    whole, part = folder / "whole", folder / "part"
    recipe = recipe_from_dict(TREE)
    lines: list[str] = []
    train(recipe, folder, whole, report=lines.append)

    # The second run is stopped after two iterations, by the signal of Ctrl-C.
    def stop(line: str) -> None:
        if line.startswith("iteration 2 "):
            signal.raise_signal(signal.SIGINT)

    train(recipe, folder, part, report=stop)
    stopped = torch.load(part / "checkpoint.pt", weights_only=True)
    assert stopped["iteration"] == 2
    train(recipe, folder, part, resume=True, report=lines.append)
    states = [torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, part)]
    for state in states:
        assert state.pop("seconds") > 0 and state["iteration"] == 6
    assert states_equal(*states)
    assert not states_equal(stopped["params"], states[0]["params"])
    with (whole / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["3", "6"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert any("it/s" in line and "left" in line for line in lines)
    assert not list(whole.glob(".*"))


def test_runs_that_are_refused(folder):
    recipe, out = recipe_from_dict(TREE), folder / "run"
    with pytest.raises(OutputError, match="no run to resume"):
        train(recipe, folder, out, resume=True)
    assert not out.exists()
    train(recipe, folder, out, report=lambda line: None)
    with pytest.raises(OutputError, match="exists; continue it with --resume"):
        train(recipe, folder, out)
    other = recipe_from_dict(changed(optimizer={"learning_rate": 1e-3}))
    with pytest.raises(CheckpointError, match=r"another recipe \(optimizer differ\)"):
        train(other, folder, out, resume=True)
    for damage in (b"", b"not torch", (out / "checkpoint.pt").read_bytes()[:2000]):
        (out / "checkpoint.pt").write_bytes(damage)
        with pytest.raises(CheckpointError, match="can not be read as a training checkpoint"):
            train(recipe, folder, out, resume=True)
    torch.save({"params": {}}, out / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="holds no training state"):
        train(recipe, folder, out, resume=True)


# Checkpoints and the command

def test_packed_and_plain_checkpoints_are_the_averaged_network(folder):
    result = CliRunner().invoke(cli, [
        "train", str(folder / "recipe.yaml"), "-o", str(folder / "run"),
        "--set", "run.iterations=4", "--pack", str(folder / "net.safetensors")])
    assert result.exit_code == 0, result.output
    trainer = Trainer(recipe_from_dict(TREE), folder)
    trainer.load_state(torch.load(folder / "run" / "checkpoint.pt", weights_only=True))
    noisy, condition = torch.randn(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    expected = BiDiffSR(trainer.recipe.network).eval()  # not in the trainer's memory layout
    expected.load_state_dict(trainer.average.state_dict())
    packed = load_network(folder / "net.safetensors").eval()
    plain = load_network(folder / "run" / "checkpoint.pt",
                         Options(network=TREE["network"])).eval()
    with torch.no_grad():
        for network in (packed, plain):
            assert torch.equal(network(noisy, condition, 12), expected(noisy, condition, 12))
    found = read_checkpoint(folder / "net.safetensors")
    assert found.config == NetworkConfig(**TREE["network"]) and found.scale == 2
    assert found.sampling == {"timesteps": [12, 6], "start": 12}
    assert found.schedule["total_steps"] == 200


def test_training_continues_from_a_packed_checkpoint(folder):
    recipe = recipe_from_dict(TREE)
    out = train(recipe, folder, folder / "run", report=lambda line: None)
    write_packed(out, recipe, folder / "net.safetensors")
    trainer = Trainer(recipe_from_dict({**TREE, "initial": "net.safetensors"}), folder)
    expected = load_network(folder / "net.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(),
                                                 expected.parameters()))
    trainer.train_once()
    other = {**changed(network={"dynamic_group": 10}), "initial": "net.safetensors"}
    with pytest.raises(CheckpointError, match="other network options than the recipe"):
        Trainer(recipe_from_dict(other), folder)


@pytest.mark.parametrize("arguments, says", [
    (["none.yaml", "-o", "run"], "can not be read"),
    (["recipe.yaml", "-o", "run", "--resume"], "no run to resume"),
    (["recipe.yaml", "-o", "run", "--pack", "net.pt"], "must end in .safetensors"),
    (["recipe.yaml", "-o", "run", "--pack", "there.safetensors"], "already exists"),
    (["recipe.yaml", "-o", "photos/a.png"], "a.png"),
    (["recipe.yaml", "-o", "run", "--set", "data.train=[gone]"], "no such photo or folder"),
])
def test_the_command_refuses_in_a_sentence(folder, monkeypatch, arguments, says):
    monkeypatch.chdir(folder)
    (folder / "there.safetensors").touch()
    result = CliRunner().invoke(cli, ["train", *arguments])
    error = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert result.exit_code == 1 and len(error) == 1 and says in error[0], result.output
    assert not (folder / "run").exists()


def test_sigterm_saves_and_ends(folder):
    """As a batch system ends a job: in a process of its own."""
    out = folder / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "bidiff_deploy", "train", str(folder / "recipe.yaml"), "-o",
         str(out), "--set", "run.iterations=1000000", "--set", "run.validate_every=1000000"],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})
    try:
        assert "it/s" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "stopped; continue with --resume" in errors
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["iteration"] >= 2
    assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]


def test_help_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch', name='torch')")
    environment = {**os.environ,
                   "PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"}
    for arguments, code, says in ((["--help"], 0, "RECIPE"),
                                  (["r.yaml", "-o", "x"], 1, "bidiff-deploy[train]")):
        result = subprocess.run([sys.executable, "-m", "bidiff_deploy", "train", *arguments],
                                env=environment, capture_output=True, text=True)
        assert result.returncode == code and says in result.stdout + result.stderr
