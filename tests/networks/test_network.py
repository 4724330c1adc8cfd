"""The torch network against the reference cases, its parameters, groups and gradients."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from bidiff_deploy.checkpoint.published_keys import from_published
from bidiff_deploy.errors import UsageError
from bidiff_deploy.networks.bi_diffsr.architecture import parameters
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.training.networks.bi_diffsr import BiDiffSR
from support.reference_cases import snr

SMALL = {"inner_channel": 8, "norm_groups": 4, "channel_mults": (1, 2, 4), "res_blocks": 1,
         "dropout": 0.0, "image_size": 64, "fp_res": (64,), "total_step": 100, "dynamic_group": 4}


@pytest.fixture(scope="module")
def load(reference):
    """The network of a layout, with the reference's weights."""
    @functools.cache
    def loaded(name: str) -> BiDiffSR:
        config = NetworkConfig.from_dict(reference.layout(name)["network"])
        with torch.device("meta"):  # weights that are drawn take as long as those that are read
            network = BiDiffSR(config).eval()
        network.load_state_dict({
            key: torch.from_numpy(value)
            for key, value in from_published(reference.state(name), config).items()}, assign=True)
        return network
    return loaded


# A float32 implementation differs from the published one by rounding, and a sign that flips on
# it moves outputs by 2 alpha: at 256x256 the published one is 46.6 dB from itself.
@pytest.mark.parametrize("layout, cases", [
    ("tiny", {"forward_tiny": 60}), ("small", {"forward_small": 60}),
    ("full", {"forward_full_64": 60, "forward_full_256": 42})])
@torch.no_grad()
def test_reference(reference, load, layout, cases):
    network = load(layout)
    for case, least in cases.items():
        arrays = reference.arrays(case)
        noisy, condition = (torch.from_numpy(arrays[key]) for key in ("noisy", "condition"))
        for timestep, expected in zip(arrays["timesteps"], arrays["prediction"]):
            found = network(noisy, condition, int(timestep)).numpy()
            assert snr(expected, found) >= least, f"{case}, t = {timestep}"


@torch.no_grad()
@pytest.mark.parametrize("case, layout", [("ddim_tiny_10", "tiny"), ("ddim_small_50", "small")])
def test_reference_latents_of_the_loop(reference, load, case, layout):
    """Latents far from N(0, 1) noise, at the steps of a whole loop."""
    arrays, network = reference.arrays(case), load(layout)
    condition = torch.from_numpy(arrays["condition"])
    for index, step in enumerate(arrays["kept_steps"]):
        found = network(torch.from_numpy(arrays["latent_in"][index]), condition,
                        int(arrays["timesteps"][step]))
        assert snr(arrays["prediction"][index], found.numpy()) >= 40


OPTIONS = {
    "defaults of the test": {},
    "one level": {"channel_mults": (1,), "fp_res": ()},
    "wide first level": {"channel_mults": (2, 4)},
    "two blocks": {"res_blocks": 2, "channel_mults": (1, 2)},
    "attention everywhere": {"attn_res": (64, 32, 16)},
    "all full precision": {"fp_res": (64, 32, 16)},
    "one group": {"dynamic_group": 1},
    "other channels": {"in_channel": 5, "out_channel": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_parameters_are_those_of_the_architecture(options):
    config = NetworkConfig(**{**SMALL, **options})
    network = BiDiffSR(config)
    assert {name: tuple(value.shape) for name, value in network.named_parameters()} == {
        name: parameter.shape for name, parameter in parameters(config).items()}
    assert list(dict(network.named_parameters())) == list(parameters(config))
    assert not list(network.buffers())
    size = 2 * config.size_multiple
    found = network(torch.zeros(2, config.in_channel - 3, size, size),
                    torch.zeros(2, 3, size, size), 0)
    assert found.shape == (2, config.out_channel, size, size)


def test_published_layout_has_the_counted_parameters(reference):
    config = NetworkConfig.from_dict(reference.layout("full")["network"])
    wanted = parameters(config)
    assert sum(int(np.prod(p.shape)) for p in wanted.values()) == 51_280_387
    assert sum(int(np.prod(p.shape)) for p in wanted.values() if p.binary) == 48_211_968


@pytest.mark.parametrize("timestep, group", [(0, 0), (24, 0), (25, 1), (50, 2), (99, 3)])
def test_the_timestep_picks_one_group(timestep, group):
    torch.manual_seed(0)
    network = BiDiffSR(NetworkConfig(**SMALL))
    noisy, condition = torch.randn(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    network(noisy, condition, timestep).abs().sum().backward()
    known = parameters(network.config)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if known[name].grouped:
            used = (parameter.grad.abs().sum(1) > 0).tolist()
            assert used == [index == group for index in range(4)], name
        else:
            assert parameter.grad.abs().sum() > 0, name


def test_a_small_step_down_the_gradient_lowers_the_loss():
    torch.manual_seed(1)
    network = BiDiffSR(NetworkConfig(**{**SMALL, "fp_res": (64, 32, 16)}))
    noisy, condition, noise = (torch.randn(2, 3, 16, 16) for _ in range(3))

    def loss() -> torch.Tensor:
        return (network(noisy, condition, 30) - noise).square().mean()

    before = loss()
    before.backward()
    # The decoder and head hold no sign, so that for them the gradient is the true one.
    true = [parameter for name, parameter in network.named_parameters()
            if name.startswith("head.")]
    norm = sum(parameter.grad.square().sum() for parameter in true)
    with torch.no_grad():
        for parameter in true:
            parameter -= 1e-3 * parameter.grad
    assert loss().item() == pytest.approx((before - 1e-3 * norm).item(), abs=2e-2 * norm.item())
    assert loss() < before


def test_timesteps_as_tensors():
    torch.manual_seed(2)
    network = BiDiffSR(NetworkConfig(**SMALL)).eval()
    noisy, condition = torch.randn(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = network(noisy, condition, 30)
        for timestep in (torch.tensor(30), torch.tensor([30]), torch.tensor([30, 30])):
            assert torch.allclose(network(noisy, condition, timestep), expected, atol=1e-5)
        mixed = network(noisy, condition, torch.tensor([30, 40]))
        assert torch.allclose(mixed[:1], expected[:1], atol=1e-5)
        assert not torch.allclose(mixed[1:], expected[1:], atol=1e-3)
        with pytest.raises(UsageError, match="are in 2 TaR/TaA groups"):
            network(noisy, condition, torch.tensor([10, 30]))


def test_dropout_acts_in_training_only():
    torch.manual_seed(3)
    network = BiDiffSR(NetworkConfig(**{**SMALL, "dropout": 0.5}))
    noisy, condition = torch.randn(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(network(noisy, condition, 0), network(noisy, condition, 0))
        network.eval()
        assert torch.equal(network(noisy, condition, 0), network(noisy, condition, 0))


def test_sizes_that_do_not_divide_are_refused():
    network = BiDiffSR(NetworkConfig(**SMALL))
    with pytest.raises(UsageError, match="multiples of 4, not 18x16"):
        network(torch.zeros(1, 3, 18, 16), torch.zeros(1, 3, 18, 16), 0)
