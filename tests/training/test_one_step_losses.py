"""The parts of one-step training against reference numbers, and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from reference.synth_weights import synth_tensor

from bidiff_deploy.errors import CheckpointError, UsageError
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.training.networks.bi_diffsr import BiDiffSR
from bidiff_deploy.training.one_step.discriminator import Judge, judge_losses, student_loss
from bidiff_deploy.training.one_step.scores import noised, score_distillation
from bidiff_deploy.training.one_step.similarity import (
    Vgg,
    dissimilarity,
    edges,
    equal_factors,
    l2_pool,
    with_edges,
)
from bidiff_deploy.training.one_step.wide import WideTeacher, widened
from support.binarizer_setup import network, small
from support.gpd_toy import Toy, toy_student
from support.reference_cases import REFERENCE, snr


def arrays(case: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{case}.npz") as data:
        return dict(data)


# -- score distillation ----------------------------------------------------------------------------
@pytest.mark.parametrize("scalings, prefix", [(1, ""), (2, "double_scaled_")])
def test_score_distillation_of_both_readings(scalings, prefix):
    """The published formula with the reference's closed-form teacher; the released code divides
    the teacher's input twice."""
    case = {key: torch.tensor(value) for key, value in arrays("tadsr_hsd").items()}
    kappa = float(case["kappa"])
    for index, t in enumerate(case["timesteps"].tolist()):
        root = float(case["sqrt_etas"][t])
        eta = root ** 2
        low, noise = (case[name][index].double() for name in ("z_y", "noise"))

        def diffused(z, low=low, noise=noise, root=root, eta=eta):
            return z + eta * (low - z) + kappa * root * noise

        def epsilon(x, low=low, root=root, eta=eta, t=t):
            given = x / (kappa ** 2 * eta + 1) ** (scalings / 2)
            restored = torch.tanh(0.8 * given + 0.1 * low + 0.01 * t)
            return (x - (restored + eta * (low - restored))) / (kappa * root)

        student = case["z_student"][index].double().requires_grad_()
        taught = case["z_teacher"][index].double()
        if scalings == 1:
            assert torch.allclose(diffused(student), case["x_student"][index], atol=1e-9)
            assert torch.allclose(epsilon(diffused(taught)), case["eps_teacher"][index], atol=1e-6)
        loss = score_distillation(student, taught, diffused, epsilon)
        loss.backward()
        wanted = case[f"{prefix}gradient"][index]
        assert torch.allclose(student.grad * student.numel(), wanted, atol=1e-6)
        assert loss.item() == pytest.approx(float(case[f"{prefix}loss"][index]), rel=1e-6)


def test_noised_is_the_forward_process():
    image, noise = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 2.0)
    found = noised(image, noise, torch.tensor(0.64).view(1, 1, 1, 1))
    assert torch.allclose(found, torch.full_like(image, 0.8 * 0.5 + 0.6 * 2))


# -- discriminator ---------------------------------------------------------------------------------
def test_the_discriminator_of_the_reference():
    layout = json.loads((REFERENCE / "layout_tadsr_discriminator_tiny.json").read_text())
    case = {key: torch.tensor(value) for key, value in arrays("tadsr_discriminator").items()}
    features = [case[f"feature_{level}"] for level in range(5)]
    judge = Judge(layout["config"]["embed_dim"], [x.shape[1] for x in features],
                  layout["config"]["c_dim"])
    state = {}
    for key, shape in layout["parameters"].items():
        value = torch.tensor(synth_tensor(key, tuple(shape), 0))
        if len(shape) == 3:  # the file's rule for conv1d
            value = value * 10 / (shape[1] * shape[2]) ** 0.5
        state[key] = value
    judge.load_state_dict(state)
    for _ in range(50):
        judge.iterate()
    for key, value in case.items():
        if key.startswith("sigma:"):
            found = judge.get_submodule(key[6:].rpartition(".")[0]).sigma()
            assert found.item() == pytest.approx(value.item(), rel=1e-4), key
    with torch.no_grad():
        logits = judge(features, case["timesteps"])
    for level, found in enumerate(logits):
        assert snr(case[f"logits_{level}"].numpy(), found.numpy()) > 90
    for index in range(2):
        one = [found[index:index + 1] for found in logits]
        none = [torch.full_like(found, -2.0) for found in one]  # no hinge of results
        assert judge_losses(one, none, "hinge").item() == pytest.approx(
            case["hinge_real"][index].item(), rel=1e-4)
        none = [torch.full_like(found, 2.0) for found in one]
        assert judge_losses(none, one, "hinge").item() == pytest.approx(
            case["hinge_fake"][index].item(), rel=1e-4)
        assert student_loss(one, "hinge").item() == pytest.approx(
            case["generator"][index].item(), rel=1e-4, abs=1e-6)


def test_logits_begin_as_biases_and_small_maps_are_judged():
    judge = Judge(8, [8, 12], 4)
    features = [torch.randn(2, 8, 4, 4), torch.randn(2, 12, 1, 1)]
    first, second = judge(features, torch.tensor([3])), judge(features, torch.tensor([70]))
    assert [x.shape for x in first] == [(2, 64), (2, 16)]
    assert all(map(torch.equal, first, second))
    assert torch.equal(first[0][0], first[0][1])


def test_logistic_losses_by_hand():
    real, fake = [torch.tensor([[0.0, 2.0]])], [torch.tensor([[-1.0, 0.0]])]
    log = np.log
    assert judge_losses(real, fake, "logistic").item() == pytest.approx(
        (log(2) + log(1 + np.exp(-2))) / 2 + (log(1 + np.exp(-1)) + log(2)) / 2)
    assert student_loss(fake, "logistic").item() == pytest.approx(
        (log(1 + np.exp(1)) + log(2)) / 2)


# -- DISTS -----------------------------------------------------------------------------------------
def test_the_formula_and_pooling_of_dists():
    case = {key: torch.tensor(value) for key, value in arrays("dists").items()}
    first, second = ([case[f"{side}_{level}"] for level in range(4)] for side in "xy")
    found = dissimilarity(first, second, case["alpha"], case["beta"])
    assert torch.allclose(found, case["score"], atol=2e-6)
    assert torch.allclose(dissimilarity(first, first, case["alpha"], case["beta"]),
                          case["score_of_equal"], atol=2e-6)
    assert torch.allclose(l2_pool(case["pool_x"]), case["pool_y"], atol=1e-6)


def test_edges_by_hand():
    ramp = torch.arange(5.0).expand(1, 1, 4, 5).clone().requires_grad_()
    found = edges(ramp)
    assert torch.allclose(found[0, 0, :, 1:-1], torch.full((4, 3), 8.0), atol=1e-5)
    found.sum().backward()
    assert torch.isfinite(ramp.grad).all()
    flat = torch.zeros(1, 3, 4, 4, requires_grad=True)
    edges(flat).sum().backward()  # a gradient of length 0 has a derivative
    assert torch.isfinite(flat.grad).all()
    assert with_edges(lambda a, b: (a - b).abs().mean(), ramp, ramp).item() == 0


def test_dists_with_files_of_weights(tmp_path):
    """A small network with VGG16's keys, against the formula on torch's own layers."""
    widths, keys, channels = (4, 4, 6, 6, 6), {}, 3
    indices = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
    generator = torch.Generator().manual_seed(0)
    for width, layers in zip(widths, (2, 2, 3, 3, 3)):
        for _ in range(layers):
            index = next(indices)
            keys[f"features.{index}.weight"] = 0.3 * torch.randn(width, channels, 3, 3,
                                                                 generator=generator)
            keys[f"features.{index}.bias"] = torch.randn(width, generator=generator)
            channels = width
    keys["classifier.0.bias"] = torch.zeros(3)
    total = 3 + sum(widths)
    factors = {name: torch.rand(1, total, 1, 1, generator=generator) for name in ("alpha", "beta")}
    torch.save(keys, tmp_path / "vgg.pth")
    torch.save(factors, tmp_path / "weights.pt")
    vgg = Vgg(tmp_path / "vgg.pth", tmp_path / "weights.pt")
    image = torch.rand(2, 3, 16, 20, generator=generator)
    found = vgg(image)
    assert [x.shape[1:] for x in found] == [(3, 16, 20), (4, 16, 20), (4, 8, 10), (6, 4, 5),
                                            (6, 2, 3), (6, 1, 2)]
    x = (image - vgg.mean) / vgg.std
    for index in (0, 2):
        x = torch.relu(torch.conv2d(x, keys[f"features.{index}.weight"],
                                    keys[f"features.{index}.bias"], padding=1))
    assert torch.allclose(found[1], x, atol=1e-6)
    assert dissimilarity(found, found, vgg.alpha, vgg.beta).abs().max() < 1e-6
    assert not list(vgg.parameters())
    torch.save({"alpha": torch.ones(5), "beta": torch.ones(5)}, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match="short.pt: alpha has 5 numbers"):
        Vgg(tmp_path / "vgg.pth", tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"weights.pt: has no features.0.weight"):
        Vgg(tmp_path / "weights.pt", tmp_path / "weights.pt")


def test_equal_factors_have_one_for_each_channel():
    features = [torch.rand(1, 3, 4, 4), torch.rand(1, 5, 2, 2)]
    factors = equal_factors(features)
    assert len(factors) == 8
    assert 0 < dissimilarity(features, [1 - x for x in features], factors, factors).item() < 2


# -- the wide teacher ------------------------------------------------------------------------------
@pytest.mark.parametrize("copies", [2, 3, 4])
def test_the_wide_toy_is_the_reference(copies):
    case = arrays("gpd_toy")
    inputs = torch.tensor(case["x"]), torch.tensor(case["t"])
    student = toy_student(case)
    with torch.no_grad():
        before = {name: value.clone() for name, value in student.named_parameters()}
        assert snr(case["student_y"], student(*inputs).numpy()) > 120
        wide = WideTeacher(student, Toy(copies))
        assert snr(case["student_y"], wide(*inputs).numpy()) > 120
    for name, value in student.named_parameters():
        assert torch.equal(value, before[name]) and torch.equal(wide.student()[name], before[name])


@pytest.mark.parametrize("kind", ["bi-diffsr", "none"])
def test_the_wide_teacher_of_a_network_shares_its_tensors(kind):
    student = network(small(kind), 1).requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    noisy, condition = torch.rand(2, 1, 3, 16, 16, generator=generator)
    with torch.no_grad():
        wanted = student(noisy, condition, 40)
    wide = widened(student, 2)
    found = wide(noisy, condition, 40)
    assert snr(wanted.numpy(), found.detach().numpy()) > 110
    found.square().mean().backward()
    gradients = {name: value.grad for name, value in wide.named_parameters()}
    assert all(grad is not None for grad in gradients.values())
    assert not any(value.requires_grad for value in student.parameters())
    # A step of the wide teacher is a step of the student, whose tensors are a part of it.
    before = {name: value.clone() for name, value in student.named_parameters()}
    with torch.no_grad():
        for value in wide.parameters():
            value.sub_(0.01 * value.grad)
    assert all(torch.equal(value, wide.student()[name])
               and not torch.equal(value, before[name])
               for name, value in student.named_parameters() if not name.endswith("threshold"))


@pytest.mark.parametrize("dtype, least", [(torch.float32, 115), (torch.float64, 250)])
def test_the_wide_teacher_of_the_published_network(dtype, least):
    """At a quarter of its width. It is the same function: float32 rounds its longer sums
    differently (the whole network, seeds 0 and 1: 119 and 121 dB; float64: 295)."""
    torch.manual_seed(0)
    student = BiDiffSR(NetworkConfig(inner_channel=16, norm_groups=4, dropout=0.0)).to(dtype)
    noisy, condition = torch.rand(2, 1, 3, 16, 16, dtype=dtype)
    with torch.no_grad():
        wanted = student(noisy, condition, 400)
        wide = widened(student, 2)
        assert snr(wanted.numpy(), wide(noisy, condition, 400).numpy()) > least


def test_layers_that_cannot_be_widened_are_refused():
    with pytest.raises(UsageError, match="not reactnet with identity"):
        widened(network(small("reactnet"), 1), 2)
    with pytest.raises(UsageError, match="not bi-diffsr with cfb"):
        widened(network(small("bi-diffsr", shortcut="cfb"), 1), 2)
