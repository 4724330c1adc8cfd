"""The random numbers of an iteration, and inputs, targets and losses of BI-DiffSR."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bidiff_deploy.errors import CheckpointError, UsageError
from bidiff_deploy.sampling import sampler
from bidiff_deploy.training.diffusion import DiffusionTask, add_noise, as_predict, ddim_update
from bidiff_deploy.training.draws import Draws
from bidiff_deploy.training.loop import train
from bidiff_deploy.training.losses import DistillationLoss, NoiseLoss
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.recipe_parts import Distill
from bidiff_deploy.training.trainer import Trainer
from support.training_setup import TREE, changed, silent

CPU = torch.device("cpu")


def test_noise_belongs_to_the_image_and_not_to_the_batch():
    whole = Draws(7, 3, 12, CPU).noise(torch.empty(4, 3, 16, 16))
    part = Draws(7, 99, 14, CPU).noise(torch.empty(2, 3, 16, 16))
    assert torch.equal(whole[2:], part)
    flat = whole.flatten(1)
    assert abs(torch.corrcoef(flat) - torch.eye(4)).max() < 0.15
    assert not torch.equal(whole, Draws(8, 3, 12, CPU).noise(torch.empty(4, 3, 16, 16)))
    large = Draws(0, 0, 0, CPU).noise(torch.empty(4, 3, 64, 64))
    assert large.mean().abs() < 0.02 and abs(large.std() - 1) < 0.02


def test_shared_numbers_belong_to_the_iteration():
    first, second = (Draws(7, 3, image, CPU).shared().random(5) for image in (0, 8))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, Draws(7, 4, 0, CPU).shared().random(5))
    Draws(7, 3, 0, CPU).seed_dropout()
    once = torch.rand(3)
    Draws(7, 3, 1, CPU).seed_dropout()
    assert not torch.equal(once, torch.rand(3))
    Draws(7, 3, 0, CPU).seed_dropout()
    assert torch.equal(once, torch.rand(3))


def test_updates_in_torch_are_those_of_the_sampler():
    random = np.random.default_rng(0)
    image, noise = random.normal(size=(2, 2, 3, 9, 7)).astype(np.float32)
    alpha, previous = np.float32(0.7371), np.float32(0.9213)
    tensors = torch.from_numpy(image), torch.from_numpy(noise)
    assert np.array_equal(add_noise(*tensors, alpha), sampler.add_noise(image, noise, alpha))
    assert np.array_equal(ddim_update(*tensors, alpha, previous),
                          sampler.ddim_update(image, noise, alpha, previous))


@pytest.mark.parametrize("origin", ["photo", "condition", "sample"])
def test_targets_lead_back_to_the_photo(folder, origin):
    """x_t minus the target's share is the photo, whatever x_t was made from."""
    recipe = recipe_from_dict({**TREE, "steps": [
        {"timestep": 60, "origin": "condition"}, {"timestep": 30, "origin": origin}]})
    task = DiffusionTask(recipe, folder)
    photo, condition = Trainer(recipe, folder).crops.batch(0, 2)
    noisy, target = task.noised(task.network, recipe.steps[1], photo, condition,
                                torch.randn(photo.shape))
    alpha = float(recipe.schedule.alphas_cumprod[30])
    recovered = (noisy - (1 - alpha) ** 0.5 * target) / alpha**0.5
    assert torch.allclose(recovered, photo, atol=1e-5)
    residual = (noisy / alpha**0.5 - (condition if origin == "condition" else photo)).std()
    if origin != "sample":
        assert residual == pytest.approx(((1 - alpha) / alpha) ** 0.5, rel=0.1)


def test_each_image_may_have_its_own_timestep(folder):
    tree = {**changed(network={"binarizer": "none", "dropout": 0.0}), "uniform": 1,
            "per_image": True}
    task = DiffusionTask(recipe_from_dict(tree), folder)
    photo, condition = torch.rand(2, 6, 3, 16, 16)
    draws = Draws(3, 0, 12, CPU)
    noisy, _, timesteps, _, noise = inputs = task.prepare(task.network, photo, condition, draws)
    assert len(set(timesteps.tolist())) > 2 and timesteps.max() < 80
    later = task.prepare(task.network, photo[2:], condition[2:], Draws(3, 9, 14, CPU))
    assert torch.equal(later[2], timesteps[2:])  # an image's own, whatever the batch
    alphas = task.recipe.schedule.alphas_cumprod
    for index, timestep in enumerate(timesteps.int().tolist()):
        assert torch.allclose(noisy[index], add_noise(photo, noise, alphas[timestep])[index],
                              atol=1e-5)
    loss = task.objective()(*inputs)["loss"]
    alone = [task.objective()(*(part[index:index + 1] for part in inputs[:3]), inputs[3],
                              noise[index:index + 1])["loss"] for index in range(6)]
    assert loss.item() == pytest.approx(sum(alone).item() / 6, rel=1e-5)
    for change in ({"uniform": 0.5}, {"network": TREE["network"]}, {"distill": "t"}):
        with pytest.raises(UsageError, match="per_image needs"):
            recipe_from_dict({**tree, **change})
    squared = DiffusionTask(recipe_from_dict({**tree, "timestep_power": 2}), folder)
    found = squared.prepare(task.network, photo, condition, draws)[2]
    assert len(set(found.tolist())) > 2 and found.max() < 80
    many = squared.prepare(task.network, *torch.rand(2, 3000, 3, 1, 1), draws)[2]
    assert set(many.tolist()) == set(range(80))  # all that a loop may visit
    assert abs((many < 20).float().mean() - 0.5) < 0.05
    for change in ({"timestep_power": 2, "per_image": False}, {"timestep_power": 0.5, **tree}):
        with pytest.raises(UsageError, match="timestep_power=.* must be from 1 to 4"):
            recipe_from_dict({**tree, **change})


def test_the_samplers_latent_is_what_the_later_step_is_trained_on(folder):
    """Compared with ``sampling.sampler``: its image follows from that latent."""
    recipe = recipe_from_dict(changed(network={"dropout": 0.0}))
    task = DiffusionTask(recipe, folder)
    network = task.network.eval().to(memory_format=torch.channels_last)
    condition, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    latent = task.sampled(network, 1, condition, noise).numpy()
    predict = as_predict(network)

    def in_layout(noisy, given, timestep):
        noisy = torch.from_numpy(noisy).contiguous(memory_format=torch.channels_last)
        return network(noisy, torch.from_numpy(given), timestep).detach().numpy()

    expected = sampler.sample(in_layout, condition.numpy(), recipe.timesteps, recipe.schedule,
                              noise.numpy(), start=44, clamp=False)
    last = in_layout(latent, condition.numpy(), 36)
    found = sampler.ddim_update(latent, last, recipe.schedule.alphas_cumprod[36], 1.0)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(predict(latent, condition.numpy(), 36)).all()


def test_the_published_way_trains_at_all_timesteps(folder):
    recipe = recipe_from_dict({**changed(network={"dynamic_group": 4}), "steps": 4,
                               "uniform": 1.0})
    task = DiffusionTask(recipe, folder)
    drawn = [task.drawn_step(Draws(0, iteration, 0, CPU)) for iteration in range(4000)]
    assert {step.origin for step in drawn} == {"photo"}
    counts = np.bincount([step.timestep for step in drawn], minlength=80)
    assert len(counts) == 80 and counts.min() > 0  # 50 expected each
    assert abs(counts.reshape(4, 20).sum(1) - 1000).max() < 100
    trainer = Trainer(recipe, folder)
    assert np.isfinite([trainer.train_once()["loss"] for _ in range(3)]).all()


def test_steps_are_drawn_by_their_shares(folder):
    task = DiffusionTask(recipe_from_dict(TREE), folder)
    drawn = [task.drawn_step(Draws(0, iteration, 0, CPU)).timestep for iteration in range(3000)]
    assert drawn.count(44) == pytest.approx(2000, abs=100) and set(drawn) == {44, 36}


class Fixed(torch.nn.Module):
    """A network without blocks that always predicts the same values."""

    blocks = ()

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.config = recipe_from_dict(TREE).network
        self.values, self.known = torch.tensor(values), None

    def predict(self, *_) -> torch.Tensor:
        return self.values

    def deviation(self, timestep):
        return self.known


def test_losses_by_hand():
    """Predicted 1, -1, 2, against 0, 1, 2: differences 1, -2, 0; the teacher's 1, 1, 1."""
    inputs = (None, None, torch.tensor([6.0]), torch.tensor([0]), torch.tensor([0.0, 1.0, 2.0]))
    student, teacher = Fixed(1.0, -1.0, 2.0), Fixed(1.0, 1.0, 1.0)
    for kind, value in (("l1", 1.0), ("l2", 5 / 3)):
        assert NoiseLoss(student, kind)(*inputs)["loss"].item() == pytest.approx(value)
        found = DistillationLoss(student, teacher, Distill("x", target=2.0), kind)(*inputs)
        assert set(found) == {"loss", kind, "output"}
        assert found[kind].item() == pytest.approx(value)
        assert found["loss"].item() == pytest.approx(2 * value + 1)  # the output's part is L1
    student.known = torch.tensor(0.5)
    assert NoiseLoss(student, "l1")(*inputs)["loss"].item() == pytest.approx(2)
    found = DistillationLoss(student, teacher, Distill("x", target=2.0), "l2")(*inputs)
    assert found["l2"].item() == pytest.approx(4 * 5 / 3) and found["output"].item() == 2


def test_the_recipe_names_the_loss(folder):
    losses = {}
    for kind in ("l1", "l2"):
        trainer = Trainer(recipe_from_dict({**changed(network={"dropout": 0.0}), "loss": kind}),
                          folder)
        high, given = trainer.crops.batch(0, 2)
        inputs = trainer.task.prepare(trainer.network, high, given, Draws(0, 0, 0, CPU))
        with torch.no_grad():
            difference = trainer.network.predict(*inputs[:-1]) - inputs[-1]
        expected = difference.abs().mean() if kind == "l1" else difference.square().mean()
        losses[kind] = trainer.train_on(high, given)["loss"]
        assert losses[kind] == pytest.approx(expected.item(), rel=1e-4)
    assert losses["l1"] != pytest.approx(losses["l2"])


def test_a_run_of_a_recipe_without_a_loss_resumes(folder):
    out = folder / "run"
    path = train(recipe_from_dict(changed(run={"iterations": 1})), folder, out, report=silent)
    state = torch.load(path, weights_only=True)
    assert state["recipe"].pop("loss") == "l1"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"another recipe \(loss differ\)"):
        train(recipe_from_dict({**TREE, "loss": "l2"}), folder, out, resume=True)
    train(recipe_from_dict(changed(run={"iterations": 2})), folder, out, resume=True,
          report=silent)
    assert torch.load(path, weights_only=True)["iteration"] == 2
