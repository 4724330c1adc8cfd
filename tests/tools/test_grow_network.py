"""A deeper network, or one of another scale, that begins as a trained one."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import grow_network  # noqa: E402

from bidiff_deploy.checkpoint.packed import write_packed  # noqa: E402
from bidiff_deploy.checkpoint.record import from_latent  # noqa: E402
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig  # noqa: E402
from bidiff_deploy.training.networks.bbcu import Bbcu, FloatConv2d  # noqa: E402
from bidiff_deploy.training.portable import write_portable  # noqa: E402
from bidiff_deploy.training.weights import latent_weights, load_network, published_state  # noqa: E402
from support.bbcu_networks import random_network  # noqa: E402
from support.reference_cases import snr  # noqa: E402

CONFIG = BbcuConfig(channels=8, blocks=2, alignment=20.0, tail="direct", float_layers=2, border=1)


@pytest.fixture
def grown(tmp_path, monkeypatch):
    """(network before, after) the tool's options."""
    def grown(*options: object) -> tuple[Bbcu, Any]:
        old = random_network(CONFIG)
        weights = published_state(old, CONFIG)
        write_portable(tmp_path / "state.safetensors", {
            "recipe": {"network": CONFIG.to_dict()}, "scaler": {}, "iteration": 1, "seconds": 1.0,
            "best": None, "params": {}, "params_ema": weights, "objective": {},
            "optimizer": {"state": {}, "param_groups": []}})
        monkeypatch.setattr(sys, "argv", ["grow_network", str(tmp_path / "state.safetensors"),
                                          str(tmp_path / "grown.safetensors"),
                                          *map(str, options)])
        grow_network.main()
        return old, load_network(
            tmp_path / "grown.safetensors").eval().requires_grad_(False)
    return grown


def image(network: Bbcu):
    torch.manual_seed(1)
    with torch.inference_mode():
        return network(torch.rand(1, 3, 12, 12)).numpy()


def layers(network: Bbcu, kind: bool) -> list:
    return [layer for layer in network.body if isinstance(layer, FloatConv2d) is kind]


def test_added_full_precision_layers_change_nothing_yet(grown):
    old, new = grown("--blocks", 3, "--float-layers", 4)
    assert new.config == dataclasses.replace(CONFIG, blocks=3, float_layers=4)
    assert len(layers(new, True)) == 4 and len(layers(new, False)) == 2
    assert 30 < snr(image(old), image(new)) < 90
    added = [float(layer.weight.abs().max()) for layer in layers(new, True)[1:3]]
    assert 0 < max(added) < 0.02 and all(not layer.bias.any() for layer in layers(new, True)[1:3])


def test_added_binary_layers_begin_like_the_last_before_them(grown):
    old, new = grown("--blocks", 4, "--float-layers", 2)
    pairs = zip(layers(new, False), [*layers(old, False), *layers(old, False)[-1:] * 4])
    assert len(layers(new, False)) == 6
    for layer, source in pairs:
        torch.testing.assert_close(layer.weight, source.weight, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(layer.threshold, source.threshold, rtol=1e-3, atol=1e-6)


def test_another_scale_has_a_new_head_and_the_same_body(grown):
    old, new = grown("--blocks", 2, "--float-layers", 2, "--scale", 4)
    assert image(new).shape[2:] == (48, 48)
    for one, other in zip(new.body, old.body):
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=1e-6)


def test_a_packed_network_will_do(tmp_path, monkeypatch):
    old = random_network(CONFIG)
    weights = latent_weights(published_state(old, CONFIG), CONFIG)
    packed, target = tmp_path / "packed.safetensors", tmp_path / "runs" / "grown.safetensors"
    write_packed(packed, from_latent(weights, CONFIG, name="x", origin="x", scale=2))
    monkeypatch.setattr(sys, "argv", ["grow_network", str(packed), str(target), "--blocks", "2",
                                      "--float-layers", "2"])
    grow_network.main()
    new = load_network(target).eval()
    assert snr(image(load_network(packed).eval()), image(new)) > 100
    for layer, source in zip(layers(new, False), layers(old, False)):
        assert torch.equal(layer.signs(), source.signs())


def test_another_network_is_refused_in_a_sentence(tmp_path, monkeypatch):
    shipped = Path(__file__).parents[2] / "bidiff_deploy/models/diffusion_x2.safetensors"
    monkeypatch.setattr(sys, "argv", ["grow_network", str(shipped), str(tmp_path / "grown"),
                                      "--blocks", "2", "--float-layers", "2"])
    with pytest.raises(SystemExit, match="diffusion_x2.safetensors: is no network of BBCU"):
        grow_network.main()
