"""The losses of one step for a network without a loop, with a diffusion model as teacher."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group as cli
from bidiff_deploy.errors import CheckpointError, UsageError
from bidiff_deploy.images.metrics import LUMA
from bidiff_deploy.images.resample import to_condition
from bidiff_deploy.training.draws import Draws
from bidiff_deploy.training.one_step.task import TaughtOneRunTask
from bidiff_deploy.training.photo_losses import photo_loss, with_luma_of
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.trainer import Trainer
from support.binarizer_setup import checkpoint, network
from support.training_setup import TREE, changed, states_equal

ALL = {"teacher": "t.safetensors", "image": 1, "kind": "luma", "perceptual": 0.1, "score": 0.1,
       "trajectory": {"weight": 1, "steps": 2, "cache": "cache"},
       "discriminator": {"weight": 0.02, "classes": 2}}


def tree(one_step: dict, **more: Any) -> dict:
    return {"scale": TREE["scale"], "model": "bbcu", "data": {**TREE["data"], "crops": 5},
            "network": {"channels": 8, "blocks": 1, "alignment": 10, "tail": "direct"},
            "run": {**TREE["run"], "batch": 2}, "one_step": one_step, **more}


def recipe(one_step: dict, **more: Any):
    return recipe_from_dict(tree(one_step, **more))


@pytest.mark.parametrize("one_step, more, says", [
    ({**ALL, "timestep": 40}, {}, "one_step.timestep applies only to diffusion models"),
    ({**ALL, "noise": False}, {}, "one_step.noise applies only"),
    ({**ALL, "wide": 2}, {}, "one_step.wide applies only"),
    ({"kind": "luma"}, {}, "has no loss"),
    ({"image": 1, "luma_only": True}, {}, "neither has a weight"),
    (ALL, {"loss": "luma"}, "leave loss=luma out"),
    (ALL, {"data": {**TREE["data"], "crops": 0}}, "needs data.crops"),
    ({"image": 1, "kind": "luma"}, {"data": {**TREE["data"], "crop": 8}}, "at least 11"),
])
def test_recipes_that_make_no_sense_are_refused(one_step, more, says):
    with pytest.raises(UsageError, match=says):
        recipe(one_step, **more)


def test_a_diffusion_model_states_its_timestep():
    with pytest.raises(UsageError, match="one_step.timestep must state"):
        recipe_from_dict({**TREE, "one_step": {"image": 1}})
    without = {key: value for key, value in TREE.items() if key != "steps"}
    with pytest.raises(UsageError, match="lacks one_step.timestep, that of the one call"):
        recipe_from_dict({**without, "one_step": {"image": 1}})
    with pytest.raises(UsageError, match="has no loss"):
        recipe_from_dict({**TREE, "one_step": {"noise": False}})


def test_teachers_that_do_not_fit_are_refused(taught):
    found = read_checkpoint(taught / "t.safetensors")
    write_packed(taught / "x4.safetensors", replace(found, scale=4))
    deep = changed(network={"binarizer": "none", "channel_mults": [1, 2, 4]})
    write_packed(taught / "deep.safetensors", replace(
        checkpoint(network(recipe_from_dict(deep).network, 5)), schedule={"total_steps": 80}))
    for one_step, data, kind, says in (
            ({**ALL, "teacher": "x4.safetensors"}, {}, CheckpointError, "model of scale 2"),
            ({**ALL, "teacher": "deep.safetensors"}, {"crop": 14}, UsageError,
             "crop=14 must be a multiple of 4 for the teacher"),
            ({**ALL, "discriminator": {"weight": 1, "timesteps": [0, 81]}}, {}, UsageError,
             "must end at 80 .*t.safetensors"),
            ({**ALL, "teacher": "none.safetensors"}, {}, CheckpointError, "none.safetensors")):
        with pytest.raises(kind, match=says):
            Trainer(recipe(one_step, data={**TREE["data"], "crops": 5, **data}), taught)


class Fixed(torch.nn.Module):
    """Stands for a network whose result is given."""

    def __init__(self, result: torch.Tensor) -> None:
        super().__init__()
        self.result = torch.nn.Parameter(result)

    def forward(self, start: torch.Tensor) -> torch.Tensor:
        return self.result


@pytest.mark.parametrize("luma_only", [False, True])
def test_features_and_discriminator_see_luma_alone_if_asked(taught, luma_only):
    """The gradient of both says nothing then about colours, which ``image`` learns."""
    one_step = {**ALL, "luma_only": luma_only, "score": 0,
                "trajectory": {"weight": 0, "steps": 2, "cache": ""}}
    task = TaughtOneRunTask(recipe(one_step), taught)
    objective = task.objective()
    high = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    low = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    inputs = task.prepare(task.network, high, low, Draws(0, 7, 14))
    for layer in objective.judge.out_layers:  # they begin at zero, which passes no gradient
        torch.nn.init.normal_(layer.get_submodule("3").weight)
    for name in ("features", "fooled", "image"):
        objective.network = Fixed(high.flip(0) * 0.8 + 0.1)
        objective(*inputs)[name].backward()
        gradient = objective.network.result.grad
        luma = torch.tensor([float(factor) for factor in LUMA])[None, :, None, None]
        along = (gradient * luma).sum(1, keepdim=True) * luma / luma.square().sum()
        colours = (gradient - along).abs().max() / gradient.abs().max()
        assert (colours < 1e-4) == (luma_only and name != "image"), (name, float(colours))


def test_the_photo_takes_luma_and_keeps_its_colours():
    photo, image = torch.rand(2, 2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    found = with_luma_of(photo, image)
    weights = torch.tensor([float(factor) for factor in LUMA]).double()

    def luma(x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("c,nchw->nhw", weights, x)

    torch.testing.assert_close(luma(found), luma(image), rtol=0, atol=1e-4)
    for first, second in ((0, 1), (1, 2)):  # differences of channels are the colours
        torch.testing.assert_close(found[:, first] - found[:, second],
                                   photo[:, first] - photo[:, second], rtol=0, atol=1e-5)


def test_the_values_by_hand(taught):
    """The result is the network's output; the teacher sees the enlarged crop."""
    task = TaughtOneRunTask(recipe(ALL), taught)
    objective = task.objective()
    high = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    low = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    inputs = task.prepare(task.network, high, low, Draws(0, 7, 14))
    start, condition, photo, target, noise, step, *_ = inputs
    assert torch.equal(start, low) and torch.equal(photo, high)
    wanted = [to_condition(image.permute(1, 2, 0).numpy(), 2) for image in low]
    assert np.allclose(condition, wanted, atol=1e-5)
    drawn = Draws(0, 7, 14).noise(high, period=5)
    teacher = task.teaching.trajectories.teacher
    assert teacher.timesteps == (40, 0) and teacher.schedule.total_steps == 80
    assert torch.allclose(target, teacher.sampled(condition, drawn), atol=1e-3)
    assert step.max() < 80 // 20 and noise.shape == high.shape
    losses = objective(*inputs)
    result = task.network(low)
    assert losses["image"].item() == pytest.approx(
        photo_loss(result, high, "luma")["luma"].item(), rel=1e-5)
    assert losses["trajectory"].item() == pytest.approx(
        (result - target).square().mean().item(), rel=1e-5)
    assert set(losses) == {"loss", "image", "squares", "structure", "trajectory", "score",
                           "features", "fooled", "judge"}
    total = (losses["image"] + losses["trajectory"] + 0.1 * losses["score"]
             + 0.1 * losses["features"] + 0.02 * losses["fooled"] + losses["judge"])
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-6)


def test_it_learns_and_resumes_bit_for_bit(taught):
    found = recipe({**ALL, "score": 0}, optimizer={"learning_rate": 4e-3})
    trainer = Trainer(found, taught)
    losses = [trainer.train_once() for _ in range(12)]
    for name in ("image", "judge", "loss"):
        first, last = (np.mean([part[name] for part in some]) for some in (losses[:4], losses[-4:]))
        assert last < first, name
    resumed = Trainer(found, taught)
    resumed.load_state(copy.deepcopy(trainer.state()))
    assert resumed.train_once() == trainer.train_once()
    assert states_equal({**resumed.state(), "seconds": 0}, {**trainer.state(), "seconds": 0})
    trainer.close()
    resumed.close()


def test_a_run_is_packed_without_its_teacher_and_measured_with_it(taught):
    file = taught / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree(ALL)))

    def command(*arguments: object):
        return CliRunner().invoke(cli, list(map(str, arguments)))

    done = command("train", file, "-o", taught / "run", "--set", "run.iterations=2")
    assert done.exit_code == 0, done.output
    kept = sorted((taught / "cache").rglob("*.npy"))
    measured = command("train", file, "--measure")
    assert measured.exit_code == 0 and "s an iteration" in measured.output
    assert kept and kept == sorted((taught / "cache").rglob("*.npy"))
    (taught / "t.safetensors").unlink()
    packed = command("pack", taught / "run" / "checkpoint.pt", "-o", taught / "p.safetensors")
    assert packed.exit_code == 0, packed.output
    assert read_checkpoint(taught / "p.safetensors").config.channels == 8
    measured = command("train", file, "--measure")
    assert measured.exit_code == 1 and "t.safetensors" in measured.output
    assert "Traceback" not in measured.output
