"""BBCU-M without a bundle: its size, its formula, its checkpoints."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file

from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.published_keys import to_published
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig, layers, parameters
from bidiff_deploy.networks.bbcu.costs import count as count_network
from bidiff_deploy.training.networks.binarize import sign_activation, sign_weight
from support.bbcu_networks import EVERY, SMALL, checkpoint_of, random_network


@pytest.mark.parametrize("scale, params, operations", [(2, 46_147, 1.83e9), (4, 50_755, 3.95e9)])
def test_size_is_that_of_the_paper(scale, params, operations):
    config = BbcuConfig(scale=scale)
    # Its 46 K and 51 K, which leave thresholds and RPReLUs out; operations at 320x180.
    weights = {name: p for name, p in parameters(config).items() if not p.grouped}
    assert sum(math.prod(p.shape) / (32 if p.binary else 1) for p in weights.values()) == params
    assert count_network(config, 180, 320).paper_operations == pytest.approx(operations, rel=5e-3)


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_torch_network_is_the_formula(config):
    network = random_network(config)
    assert {n: tuple(v.shape) for n, v in network.named_parameters()} == {
        n: p.shape for n, p in parameters(config).items()}
    state = dict(network.named_parameters())
    image = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(1))

    def binary(h, layer):
        part = {key: state[f"{layer.name}.{key}"].view(1, -1, 1, 1)
                for key in ("threshold", "shift_in", "slope", "shift_out")}
        weight = state[f"{layer.name}.weight"]
        alpha = weight.abs().mean((1, 2, 3)).view(1, -1, 1, 1)
        signs = torch.where(h + part["threshold"] >= 0, 1.0, -1.0)
        y = alpha * F.conv2d(signs, torch.where(weight >= 0, 1.0, -1.0), padding=1)
        y = y + part["shift_in"]
        y = torch.where(y < 0, part["slope"] * y, y) + part["shift_out"]
        if layer.kind != "up":
            return y + h
        r = layer.upsampling
        return F.pixel_shuffle(y, r) + F.interpolate(h, scale_factor=r, mode="nearest")

    x = F.pad(image, 4 * [config.border], mode="replicate") * config.alignment
    h = x
    for layer in layers(config):
        if layer.binary:
            h = binary(h, layer)
            continue
        if layer.kind == "head":
            h = F.leaky_relu(h, 0.1)
        y = F.conv2d(h, state[f"{layer.name}.weight"], state[f"{layer.name}.bias"], padding=1)
        if layer.kind != "head":
            y = F.leaky_relu(y, 0.1)
        h = y + h if layer.kind == "body" else y
    if config.tail == "direct":
        h = F.pixel_shuffle(h, config.scale)
    h = h + F.interpolate(x, scale_factor=config.scale, mode="bilinear", align_corners=False)
    inside = slice(edge := config.border * config.scale, -edge or None)
    torch.testing.assert_close(network(image), (h / config.alignment)[..., inside, inside],
                               rtol=1e-5, atol=1e-5)


def test_gradients_of_the_upsampler_are_those_of_its_parts():
    layer = random_network(SMALL[2]).up[0].requires_grad_(True)
    x = torch.randn(2, 40, 5, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    target = torch.randn(2, 40, 10, 12, generator=torch.Generator().manual_seed(3))
    inputs = (x, layer.weight, layer.threshold, layer.shift_in, layer.slope, layer.shift_out)
    found = torch.autograd.grad((layer(x) * target).sum(), inputs)
    y = F.conv2d(sign_activation(x + layer.threshold[:, :, None, None]),
                 sign_weight(layer.weight), padding=1)
    y = F.prelu(y + layer.shift_in[:, :, None, None], layer.slope[0])
    y = y + layer.shift_out[:, :, None, None] + layer.residual(x)
    wanted = torch.autograd.grad((F.pixel_shuffle(y, 2) * target).sum(), inputs)
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_an_output_pixel_depends_on_its_reach_alone(config):
    network = random_network(config)
    side = 2 * config.reach + 5
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(4))
    middle = side // 2
    moved = image.clone()
    moved[:, :, middle, middle] = 1 - moved[:, :, middle, middle]
    changed = (network(image) != network(moved)).any(1)[0].nonzero() // config.scale
    distance = (changed - middle).abs().max()
    assert config.reach - 2 <= distance <= config.reach


@pytest.mark.parametrize("options, says", [
    ({"channels": 0}, "channels is 0; it must be a whole number, from 1"),
    ({"blocks": 2.0}, "blocks is 2.0; it must be a whole number"),
    ({"scale": 5}, "must be one of 2, 3, 4"),
    ({"alignment": float("nan")}, "alignment=nan must be a number"),
    ({"tail": "none"}, "tail='none' must be one of binary, direct"),
    ({"blocks": 2, "float_layers": 5}, "whole number from 0 to 2 . blocks = 4"),
    ({"border": 65}, "border is 65; it must be a whole number"),
    ({"border": 0.5}, "border is 0.5; it must be a whole number"),
    ({"alignment": "much"}, "alignment='much'"), ({"depth": 3}, "unknown network option depth")])
def test_options_that_are_none(options, says):
    with pytest.raises(CheckpointError, match=says):
        BbcuConfig.from_dict(options)


@pytest.fixture
def published(tmp_path):
    """A function: a file with published keys, ``params`` around them, changed by ``change``."""
    def write(config=SMALL[2], change=lambda state: None):
        named = dict(random_network(config).named_parameters())
        state = {key: torch.from_numpy(value.copy()) for key, value in to_published(
            {name: value.numpy() for name, value in named.items()}, config).items()}
        change(state)
        torch.save({"params": state}, tmp_path / "published.pth")
        return tmp_path / "published.pth"
    return write


def test_published_checkpoints_are_recognised(published):
    for config in EVERY.values():
        path = published(config)
        found = read_checkpoint(path, Options({"alignment": 20.0, "border": config.border}))
        assert found.config == config and found.scale == config.scale and not found.assumptions
        latent = found.latent()
        for name, value in random_network(config).named_parameters():
            if parameters(config)[name].binary:
                assert np.array_equal(latent[name] > 0, value.numpy() >= 0)
            else:
                assert np.array_equal(latent[name], value.numpy())
        found = read_checkpoint(path)  # no tensor holds k
        assert found.config.alignment == 40 * 130 / 64 and "alignment" in found.assumptions[0]


def test_published_keys_are_those_of_the_published_network():
    keys = [key for p in parameters(BbcuConfig(scale=4)).values() for key in p.published]
    assert len(keys) == len(set(keys)) == 4 + 35 * 5
    for key in ("conv_first.bias", "body.15.body.1.binary_conv.weight", "body.0.body.0.move0.bias",
                "upconv1.relu.pr_bias0.bias", "upconv2.relu.pr_prelu.weight",
                "conv_hr.relu.pr_bias1.bias", "conv_last.weight"):
        assert key in keys


@pytest.mark.parametrize("change, options, says", [
    (lambda s: s.pop("conv_hr.move0.bias"), {}, "1 missing key"),
    (lambda s: s.update(extra=torch.ones(1)), {}, "1 unexpected key"),
    (lambda s: [s.pop(k) for k in list(s) if k.startswith("body.0")], {}, "not numbered from 0"),
    (lambda s: s.update({"upconv1.binary_conv.weight": torch.ones(50, 40, 3, 3)}), {}, "scale=0"),
    (lambda s: s["conv_last.bias"].fill_(float("nan")), {}, "NaN or infinite"),
    (lambda s: None, {"channels": 64}, "the options say channels=64"),
    (lambda s: None, {"inner_channel": 64}, "unknown network option inner_channel")])
def test_bad_published_checkpoints(published, change, options, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        read_checkpoint(published(change=change), Options(options))
    assert "published.pth" in str(caught.value)


def test_the_factor_cannot_be_chosen(published):
    with pytest.raises(CheckpointError, match="upscales by 2, which its upsampler fixes"):
        read_checkpoint(published(), scale=4)
    assert read_checkpoint(published(), scale=2).scale == 2


def test_packed_checkpoints(tmp_path):
    checkpoint, path = checkpoint_of(random_network(SMALL[3])), tmp_path / "packed.safetensors"
    write_packed(path, checkpoint)
    found = read_checkpoint(path)
    assert found.config == checkpoint.config and found.scale == 3 and not found.assumptions
    for name, weight in checkpoint.binary.items():
        assert np.array_equal(found.binary[name].words, weight.words)
        assert np.array_equal(found.binary[name].alpha, weight.alpha)
    for name, value in checkpoint.state.items():
        assert np.array_equal(found.state[name], value)
    with pytest.raises(CheckpointError, match="and not by 4"):
        read_checkpoint(path, scale=4)


@pytest.mark.parametrize("change, says", [
    ({"model": "srgan"}, "model 'srgan' is not known"), ({"model": 7}, "model '7' is not known"),
    ({"model": "bi-diffsr"}, "unknown network option"), ({"scale": 2}, "and not by 2"),
    ({"network": {"channels": 40, "blocks": 2, "scale": 2}}, "must be int32 of shape")])
def test_packed_checkpoints_that_lie(tmp_path, change, says):
    checkpoint, path = checkpoint_of(random_network(SMALL[3])), tmp_path / "packed.safetensors"
    write_packed(path, checkpoint)
    from safetensors import safe_open

    with safe_open(str(path), "numpy") as stream:
        header = json.loads(stream.metadata()["bidiff"])
    save_file(load_file(path), path, {"bidiff": json.dumps({**header, **change})})
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(path)
