"""A student of one call: its recipe, its losses in a run, resume, processes, export."""

from __future__ import annotations

import copy
import json
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group as cli
from bidiff_deploy.errors import CheckpointError, UsageError
from bidiff_deploy.training.batches import batches
from bidiff_deploy.training.distributed import processes
from bidiff_deploy.training.draws import Draws
from bidiff_deploy.training.one_step.objective import judged_blocks
from bidiff_deploy.training.one_step.task import OneStepTask
from bidiff_deploy.training.one_step.trajectories import Trajectories, open_teacher
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.trainer import Trainer
from bidiff_deploy.training.weights import load_network
from support.binarizer_setup import checkpoint, network
from support.forked import Forked
from support.training_setup import TREE, TWO_LEVELS, changed, one_step_tree, states_equal

TADSR = {"timestep": 40, "teacher": "t.safetensors",
         "trajectory": {"weight": 1, "steps": 4, "cache": "cache"}, "score": 1,
         "discriminator": {"weight": 0.02, "classes": 2}}


def recipe(one_step: dict, **groups):
    return recipe_from_dict(one_step_tree(one_step, **groups))


# -- recipes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("one_step, says", [
    ({"timestep": 40}, "has no loss"),
    ({"timestep": 80, "image": 1}, "from 1 to 79"),
    ({"timestep": 40, "image": -1}, "one_step.image must be 0 or more"),
    ({"timestep": 40, "trajectory": 1}, "one_step.trajectory needs one_step.teacher"),
    ({"timestep": 40, "image": 1, "teacher": "t"}, "used by none of its losses"),
    ({"timestep": 40, "score": {"weight": 1, "noise": "pink"}, "teacher": "t"}, "normal, uniform"),
    ({"timestep": 40, "score": {"weight": 1, "timesteps": [5, 5]}, "teacher": "t"}, "the first"),
    ({"timestep": 40, "discriminator": {"weight": 1, "timesteps": [0, 81]}, "teacher": "t"},
     "must end at 80"),
    ({"timestep": 40, "perceptual": {"weight": 1, "vgg": "v"}}, "both vgg and dists"),
    ({"timestep": 40, "image": 1, "wide": 1}, "the student itself"),
    ({"timestep": 40, "score": 1, "teacher": "t", "wide": 2}, "trains its teacher with image"),
    ({"timestep": 40, "image": 1, "kind": "l3"}, "l1, l2"),
])
def test_recipes_that_make_no_sense_are_refused(one_step, says):
    with pytest.raises(UsageError, match=says):
        recipe(one_step)


def test_recipes_that_contradict_are_refused():
    one_step = {"timestep": 40, "image": 1}
    for more, says in (({"steps": [{"timestep": 30}]}, "leave steps out"),
                       ({"uniform": 0.5}, "own losses"), ({"distill": "t"}, "own losses")):
        with pytest.raises(UsageError, match=says):
            recipe_from_dict({**one_step_tree(one_step), **more})
    with pytest.raises(UsageError, match="needs data.crops"):
        recipe(TADSR, data={"crops": 0})
    found = recipe(one_step)
    assert found.timesteps == (40,) and found.start == 40
    assert recipe_from_dict(found.to_dict()) == found


def test_a_timestep_that_amplifies_errors_is_refused():
    """124 times at t = 1960 of the published schedule; alpha is 0.5 at 525."""
    for timestep in (1960, 526):
        with pytest.raises(UsageError) as caught:
            recipe({"timestep": timestep, "image": 1}, network={"total_step": 2000})
    with pytest.raises(UsageError, match="alpha is 6.5e-05 there, so an error of the prediction is "
                                         "124 times as large in the image; choose a timestep of "
                                         "at most 525, where alpha is 0.5 or more"):
        recipe({"timestep": 1960, "image": 1}, network={"total_step": 2000})
    assert "one_step.timestep=526: alpha is 0.5 there" in str(caught.value)
    assert recipe({"timestep": 525, "image": 1}, network={"total_step": 2000}).start == 525


# -- losses ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("one_step, parts", [
    ({"image": 1}, {"image"}),
    ({"trajectory": {"weight": 1, "steps": 2}}, {"trajectory"}),
    ({"score": {"weight": 1, "noise": "uniform"}, "trajectory": {"steps": 2}}, {"score"}),
    ({"discriminator": {"weight": 1, "noise": "uniform"}}, {"fooled", "judge"}),
    ({"discriminator": {"weight": 1, "loss": "logistic", "rate": 0.5}, "noise": False},
     {"fooled", "judge"}),
    ({"perceptual": 1}, {"features"}),
    ({"image": 1, "kind": "l2", "wide": 2}, {"image", "wide_image", "copied"}),
])
def test_each_loss_alone_trains_the_student(taught, one_step, parts):
    if set(one_step) & {"trajectory", "score", "discriminator", "perceptual"}:
        one_step = {**one_step, "teacher": "t.safetensors"}
    network = {"preconditioning": 0.1} if one_step.get("kind") == "l2" else {}
    trainer = Trainer(recipe({"timestep": 40, **one_step}, network=network), taught)
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    teacher = copy.deepcopy(trainer.task.teacher)
    losses = [trainer.train_once() for _ in range(3)][-1]
    assert set(losses) == {"loss", *parts} and np.isfinite(list(losses.values())).all()
    moved = [name for name, value in trainer.network.named_parameters()
             if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(before)
    if teacher is not None:
        assert states_equal(teacher.state_dict(), trainer.task.teacher.state_dict())
    shares = {group.get("share", 1.0): group["lr"] for group in trainer.optimizer.param_groups}
    assert len({round(lr / share, 12) for share, lr in shares.items()}) == 1
    assert len(shares) == 1 + (one_step.get("discriminator", {}).get("rate", 1) != 1)
    trainer.close()


def test_the_values_by_hand(taught):
    """Image and trajectory of the student's one call, and the score's gradient at its timestep."""
    found = recipe({**TADSR, "image": 2, "discriminator": 0})
    task = OneStepTask(found, taught)
    objective = task.objective()
    high, given = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    inputs = task.prepare(task.network, high, given, Draws(0, 7, 14))
    start, condition, photo, target, noise, step, *_ = inputs
    alphas = found.schedule.alphas_cumprod
    a = float(alphas[40])
    drawn = Draws(0, 7, 14).noise(high, period=5)
    assert torch.allclose(start, a ** 0.5 * given + (1 - a) ** 0.5 * drawn, atol=1e-6)
    assert torch.allclose(target, open_teacher(found, taught).sampled(given, drawn), atol=1e-3)
    assert step.shape == (2,) and 0 <= step.min() and step.max() < 80 // 20
    with torch.no_grad():
        result = (start - (1 - a) ** 0.5 * task.network(start, given, 40)) / a ** 0.5
        b = torch.tensor(alphas[step.tolist()]).view(2, 1, 1, 1)
        theirs, ours = (task.teacher(b.sqrt() * x + (1 - b).sqrt() * noise, given, step.float())
                        for x in (target, result))
    losses = objective(*inputs)
    image, trajectory = (result - high).abs().mean(), (result - target).square().mean()
    assert losses["image"].item() == pytest.approx(image.item(), rel=1e-5)
    assert losses["trajectory"].item() == pytest.approx(trajectory.item(), rel=1e-5)
    assert losses["score"].item() == pytest.approx(((ours - theirs) * result).mean().item(),
                                                   rel=1e-3, abs=1e-6)
    assert losses["loss"].item() == pytest.approx(
        (2 * losses["image"] + losses["trajectory"] + losses["score"]).item(), rel=1e-6)


def test_a_teacher_with_groups_has_one_timestep_for_a_batch(taught):
    config = recipe_from_dict(TREE).network
    write_packed(taught / "groups.safetensors",
                 replace(checkpoint(network(config, 5)), schedule={"total_steps": 80}))
    found = recipe({**TADSR, "teacher": "groups.safetensors", "perceptual": 1})
    task = OneStepTask(found, taught)
    high, given = torch.rand(2, 3, 3, 16, 16)
    inputs = task.prepare(task.network, high, given, Draws(0, 7, 21))
    assert inputs[5].shape == inputs[7].shape == (1,)
    losses = task.objective()(*inputs)
    losses["loss"].backward()
    assert all(np.isfinite(part.item()) for part in losses.values())
    assert inputs[5:8:2] != task.prepare(task.network, high, given, Draws(0, 8, 24))[5:8:2]


def test_a_student_may_begin_as_its_full_precision_teacher(taught):
    found = recipe_from_dict({**one_step_tree({"timestep": 40, "image": 1},
                                              network={"dropout": 0.1}),
                              "initial": "t.safetensors"})
    student, teacher = Trainer(found, taught).network, load_network(taught / "t.safetensors")
    fresh = Trainer(replace(found, initial=""), taught).network.state_dict()
    ours, theirs = student.state_dict(), teacher.state_dict()
    for name in ("stem.weight", "encoder.1.conv1.weight", "decoder.0.conv1.weight"):
        assert torch.equal(ours[name], theirs[name])
    name = "encoder.1.conv1.slope"  # which the teacher does not have
    assert name not in theirs and torch.equal(ours[name], fresh[name])
    with pytest.raises(CheckpointError, match="options differ"):
        Trainer(replace(found, network=replace(found.network, channel_mults=(1, 2, 4))), taught)


def test_the_encoder_is_judged():
    found = network(recipe_from_dict(changed(network=TWO_LEVELS)).network)
    assert judged_blocks(found) == ["encoder.2", "encoder.3", "middle.1"]


def test_a_noise_comes_again_with_its_crop():
    like = torch.empty(4, 3, 2, 2)
    first = Draws(1, 0, 0).noise(like, period=3)
    again = Draws(1, 1, 4).noise(like, period=3)
    assert torch.equal(first[0], first[3]) and torch.equal(first[1:3], again[:2])
    assert not torch.equal(first[0], first[1])
    uniform = Draws(1, 0, 0).noise(torch.empty(1, 3, 64, 64), uniform=True)
    assert 0 <= uniform.min() and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.02


# -- trajectories ----------------------------------------------------------------------------------
def test_images_of_the_teacher_are_computed_once(taught, monkeypatch):
    found = recipe(TADSR)
    teacher = open_teacher(found, taught)
    assert teacher.timesteps == (60, 40, 20, 0) and teacher.start is None
    calls = []
    sampled = type(teacher).sampled
    monkeypatch.setattr(type(teacher), "sampled", lambda self, *inputs: calls.append(
        len(inputs[0])) or sampled(self, *inputs))
    condition, noise = torch.rand(2, 3, 3, 16, 16)
    trajectories = Trajectories(teacher, taught / "cache")
    first = trajectories.images(condition[:2], noise[:2])
    assert 0 <= first.min() and first.max() <= 1 and calls == [2]
    again = trajectories.images(condition, noise)
    assert torch.equal(again[:2], first) and calls == [2, 1]
    files = list((taught / "cache").rglob("*.npy"))
    assert len(files) == 3
    files[0].write_bytes(b"cut")  # a damaged file is written again
    assert torch.equal(trajectories.images(condition, noise), again) and calls == [2, 1, 1]
    other = Trajectories(replace(teacher, timesteps=(60, 0)), taught / "cache")
    assert not torch.equal(other.images(condition, noise), again)


def test_a_teacher_of_few_steps_is_sampled_as_it_advises(taught):
    found = read_checkpoint(taught / "t.safetensors")
    write_packed(taught / "few.safetensors",
                 replace(found, sampling={"timesteps": [30, 10], "start": 20}))
    one_step = {**TADSR, "teacher": "few.safetensors", "trajectory": 1}
    teacher = open_teacher(recipe(one_step), taught)
    assert teacher.timesteps == (10,) and teacher.start == 20
    write_packed(taught / "one.safetensors", replace(found, sampling={
        "timesteps": [30], "start": 30, "noise": "none"}))
    with pytest.raises(CheckpointError, match="starts from no noise"):
        open_teacher(recipe({**one_step, "teacher": "one.safetensors"}), taught)


# -- runs ------------------------------------------------------------------------------------------
def test_a_distillation_learns_and_resumes_bit_for_bit(taught):
    """Five losses and a wide teacher: on one batch, the result nears the teacher's."""
    found = recipe({**TADSR, "perceptual": 0.01, "wide": 2},
                   run={"iterations": 60}, optimizer={"learning_rate": 4e-3})
    trainer = Trainer(found, taught)
    high, given = next(batches(trainer.crops, found.run.batch))
    losses = [trainer.train_on(high, given) for _ in range(12)]
    means = {name: [np.mean([part[name] for part in some]) for some in (losses[:2], losses[-2:])]
             for name in losses[0]}
    for name in ("trajectory", "wide_trajectory", "judge", "loss"):
        assert means[name][1] < means[name][0], (name, means[name])
    state = copy.deepcopy(trainer.state())
    assert {name.partition(".")[0] for name in state["objective"]} == {"judge", "wide"}
    assert "judge.heads.0.cls.weight_u" in state["objective"]
    for shared in ("encoder/1/conv1/weight", "stem/weight"):
        wide = state["objective"][f"wide.tensors.{shared}"]
        ours = dict(trainer.network.named_parameters())[shared.replace("/", ".")]
        assert torch.equal(wide[tuple(map(slice, ours.shape))], ours) and wide.shape > ours.shape
    resumed = Trainer(found, taught)
    resumed.load_state(state)
    assert resumed.train_on(high, given) == trainer.train_on(high, given)
    first, second = resumed.state(), trainer.state()
    assert states_equal({**first, "seconds": 0}, {**second, "seconds": 0})
    trainer.close()
    resumed.close()


_OTHER = """
import sys
from pathlib import Path
import yaml
from bidiff_deploy.training.distributed import processes
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.trainer import Trainer
from bidiff_deploy.training.weights import load_network

folder = Path(sys.argv[1])
recipe = recipe_from_dict(yaml.safe_load((folder / "recipe.yaml").read_text()))
with processes(recipe.run) as found:
    trainer = Trainer(recipe, folder, found, say=lambda line: None)
    found.mean(trainer.train_once())
"""


@pytest.mark.filterwarnings("ignore:`broadcast_buffers`:FutureWarning")
def test_two_processes_distil_what_one_does(taught, monkeypatch):
    """By gloo, as under torchrun; this process is the first of them."""
    plain = one_step_tree({**TADSR, "image": 1, "wide": 2}, run={"batch": 4, "timeout_minutes": 60})
    (taught / "recipe.yaml").write_text(yaml.safe_dump(plain))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    other = Forked(_OTHER, taught, environment={**shared, "RANK": "1", "LOCAL_RANK": "1"},
                   torch=True)
    found = recipe_from_dict(plain)
    for name, value in {**shared, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    try:
        with processes(found.run) as both:
            trainer = Trainer(found, taught, both)
            losses = both.mean(trainer.train_once())
            gradients = {name: parameter.grad.clone() for name, parameter
                         in trainer.objective.named_parameters() if parameter.requires_grad}
            ended = other.done()  # it needs this one's store
    finally:
        other.kill()
    assert ended.returncode == 0, ended.stderr
    alone = Trainer(found, taught)
    assert losses == pytest.approx(alone.train_once(), rel=1e-3, abs=1e-5)
    for part in ("wide", "judge"):  # float32 sums in another order; STE's kinks
        first, second = (torch.cat([grad.flatten() for name, grad in sorted(grads.items())
                                    if name.startswith(part)]) for grads in (gradients, {
                                        name: parameter.grad for name, parameter
                                        in alone.objective.named_parameters()
                                        if parameter.requires_grad}))
        assert (first - second).norm() < 1e-2 * second.norm()


def test_measuring_needs_no_teacher(taught):
    (taught / "t.safetensors").unlink()
    (taught / "recipe.yaml").write_text(yaml.safe_dump(one_step_tree(TADSR)))
    result = CliRunner().invoke(cli, ["train", str(taught / "recipe.yaml"), "--measure", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["images_per_second"] > 0
    assert not (taught / "cache").exists()
