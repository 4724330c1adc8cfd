"""Distillation: its losses by hand, its recipe, a frozen teacher, and a run from start to end."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import tensor

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import CheckpointError, UsageError
from bidiff_deploy.export.write import choose_timesteps, export_bundle
from bidiff_deploy.sampling.schedule import Schedule
from bidiff_deploy.training.batches import batches
from bidiff_deploy.training.losses import DistillationLoss, feature_distance, load_teacher
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.recipe_parts import Distill
from bidiff_deploy.training.trainer import Trainer
from support.binarizer_setup import checkpoint, network, small
from support.training_setup import TREE, changed, states_equal


def batch(seed: int = 0, timestep: int = 40):
    generator = torch.Generator().manual_seed(seed)
    noisy, target = torch.randn(2, 2, 3, 16, 16, generator=generator)
    return (noisy, torch.rand(2, 3, 16, 16, generator=generator),
            tensor([float(timestep)]), tensor([0]), target)


def losses(student, teacher, inputs=None, **weights):
    return DistillationLoss(student, teacher, Distill("x", **weights))(*(inputs or batch()))


def test_feature_distance_by_hand():
    a = tensor([[3.0, 4.0], [1.0, 0.0]]).reshape(2, 2, 1, 1)
    b = tensor([[6.0, 8.0], [0.0, 2.0]]).reshape(2, 2, 1, 1)
    # Image 1: (0.6, 0.8) both, 0. Image 2: (1, 0) and (0, 1), sqrt 2.
    assert feature_distance(a, b).item() == pytest.approx(math.sqrt(2) / 2)
    assert feature_distance(a, -3 * a).item() == pytest.approx(2)
    moved = a.clone().requires_grad_()
    feature_distance(moved, a).backward()
    assert torch.equal(moved.grad, torch.zeros_like(a))  # no NaN where nothing is wrong
    assert feature_distance(torch.zeros_like(a), a).item() == pytest.approx(1)


def test_the_parts_and_their_weights():
    student, teacher = network(small("bi-diffsr"), 1), network(small("none"), 2)
    inputs = batch()
    with torch.no_grad():
        ours = student(*inputs[:2], 40)
        theirs = teacher(*inputs[:2], 40)
    found = losses(student, teacher, target=0.5, output=2.0, features=3.0)
    assert found["l1"].item() == pytest.approx((ours - inputs[4]).abs().mean().item())
    assert found["output"].item() == pytest.approx((ours - theirs).abs().mean().item())
    assert 0 < found["features"].item() < 2
    assert found["loss"].item() == pytest.approx(
        (0.5 * found["l1"] + 2 * found["output"] + 3 * found["features"]).item())
    assert set(losses(student, teacher, output=1.0)) == {"loss", "l1", "output"}
    assert set(losses(student, teacher, output=0.0, features=1.0)) == {"loss", "l1", "features"}


def test_features_are_the_outputs_of_blocks():
    student, teacher = network(small("xnor"), 1), network(small("none"), 2)
    seen = {}
    for name in ("encoder.2", "middle.1"):
        for key, module in (("ours", student), ("theirs", teacher)):
            module.get_submodule(name).register_forward_hook(
                lambda _, __, y, place=(name, key): seen.__setitem__(place, y))
    found = losses(student, teacher, features=1.0, blocks=("encoder.2", "middle.1"))
    wanted = [feature_distance(seen[name, "ours"], seen[name, "theirs"])
              for name in ("encoder.2", "middle.1")]
    assert found["features"].item() == pytest.approx(sum(wanted).item() / 2)
    every = DistillationLoss(student, teacher, Distill("x", features=1.0)).blocks
    assert every[0] == "encoder.1" and every[-1].startswith("decoder.")
    assert len(every) == len(student.blocks) - 2


def test_a_teacher_of_itself_has_nothing_to_teach():
    student = network(small("none"), 3)
    found = losses(student, network(small("none"), 3), target=0.0, features=1.0)
    assert found["loss"].item() == 0 and found["l1"].item() > 0.1


def test_the_teacher_is_frozen_and_without_dropout():
    teacher = network(small("none", dropout=0.5), 2)
    student = network(small("reactnet"), 1).requires_grad_(True)
    loss = DistillationLoss(student, teacher, Distill("x", features=1.0)).train()
    assert student.training and not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    first, second = (loss(*batch())["output"] for _ in range(2))
    assert torch.equal(first, second)
    loss(*batch())["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert states_equal(before, teacher.state_dict())


@pytest.mark.parametrize("timestep, group", [(0, 0), (49, 0), (50, 1), (99, 1)])
def test_a_teacher_with_groups_uses_its_own(timestep, group):
    """The student has no groups, the teacher two of 50 timesteps each."""
    teacher, student = network(small("bi-diffsr"), 2), network(small("xnor"), 1)
    assert teacher.config.group(timestep) == group
    inputs = batch(timestep=timestep)
    with torch.no_grad():
        wanted = (student(*inputs[:2], timestep) - teacher(*inputs[:2], timestep)).abs().mean()
    assert losses(student, teacher, inputs)["output"].item() == pytest.approx(wanted.item())


def saved(path, config, **header):
    write_packed(path, replace(checkpoint(network(config)), **header))
    return path


def test_teachers_that_do_not_fit_are_refused(tmp_path):
    student, schedule = small("bi-diffsr"), Schedule(100)
    path = saved(tmp_path / "t.safetensors", small("none"))
    assert load_teacher(path, student, schedule, Distill("t")).config == small("none")
    narrow = saved(tmp_path / "narrow.safetensors", small("none", inner_channel=4, norm_groups=2))
    assert load_teacher(narrow, student, schedule, Distill("t")).config.inner_channel == 4
    for file, error, words in (
            (narrow, Distill("t", features=1.0), "inner_channel is 4.*set distill.features to 0"),
            (saved(tmp_path / "deep.safetensors", small("none", channel_mults=(1, 2, 4))),
             Distill("t"), "halves images 2 times"),
            (saved(tmp_path / "long.safetensors", small("none", total_step=200),
                   schedule={"total_steps": 200}), Distill("t"), "total_step is 200"),
            (saved(tmp_path / "betas.safetensors", small("none"),
                   schedule={"total_steps": 100, "beta_end": 0.02}), Distill("t"), "to 0.02"),
            (tmp_path / "absent.safetensors", Distill("t"), "cannot be read")):
        with pytest.raises(CheckpointError, match=f"{file.name}.*{words}"):
            load_teacher(file, student, schedule, error)
    with pytest.raises(UsageError, match="no block 'encoder.9'; they have encoder.1"):
        load_teacher(path, student, schedule, Distill("t", features=1.0, blocks=("encoder.9",)))


@pytest.mark.parametrize("distill, words", [
    ({"teacher": "t", "output": -1}, "must be 0 or more"),
    ({"teacher": "t", "features": float("inf")}, "must be 0 or more"),
    ({"teacher": "t", "target": 0, "output": 0}, "needs a weight above 0"),
    ({"teacher": "t", "layers": 2}, "unknown key layers in distill"),
    ({"teacher": 3}, "distill.teacher must be text")])
def test_recipes_that_make_no_sense_are_refused(distill, words):
    with pytest.raises(UsageError, match=words):
        recipe_from_dict({**TREE, "distill": distill})


def test_a_recipe_may_name_the_teacher_alone():
    recipe = recipe_from_dict({**TREE, "distill": "t.safetensors"})
    assert recipe.distill == Distill("t.safetensors")
    assert recipe_from_dict(recipe.to_dict()) == recipe
    assert recipe_from_dict(TREE).distill.teacher == ""


def test_a_teacher_is_trained_and_teaches(folder):
    """The same loop trains the full-precision counterpart; it is exported, and then teaches."""
    recipe = recipe_from_dict(changed(network={"binarizer": "none"}))
    first = Trainer(recipe, folder)
    for _ in range(3):
        first.train_once()
    first.task.pack(first.state()["params_ema"], folder / "run.pt", folder / "t.safetensors")
    first.close()
    found = read_checkpoint(folder / "t.safetensors")
    assert found.config.binarizer == "none" and not found.binary
    export_bundle(found, folder / "b", timesteps=choose_timesteps(found))
    with load_bundle(folder / "b", threads=1, backend="onnxruntime-stock") as engine:
        assert engine.timesteps == (44, 36) and engine.default_start == 44

    distill = {"teacher": "t.safetensors", "target": 0.0, "output": 1.0, "features": 0.1}
    recipe = recipe_from_dict({**changed(network={"binarizer": "reactnet", "dropout": 0.0},
                                         steps=[{"timestep": 12}]), "distill": distill})
    student = Trainer(recipe, folder)
    high, given = next(batches(student.crops, recipe.run.batch))
    parts = [student.train_on(high, given) for _ in range(12)]
    assert set(parts[0]) == {"loss", "l1", "output", "features"}
    assert parts[-1]["output"] < parts[0]["output"]
    # A resumed run continues exactly, and the checkpoint contains nothing of the teacher.
    state = copy.deepcopy(student.state())
    assert not any("teacher" in key for part in ("params", "objective") for key in state[part])
    resumed = Trainer(recipe, folder)
    resumed.load_state(state)
    assert resumed.train_on(high, given) == student.train_on(high, given)
    assert states_equal(resumed.state()["params"], student.state()["params"])
    student.close()
    resumed.close()
