"""ResShift's UNet and BiMaCoSR against outputs of the published code."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.networks import NETWORKS, matching_network
from bidiff_deploy.networks.base import STEP
from bidiff_deploy.networks.resshift_unet.layers import ScaledLayer, apply_linear
from support.latent_cases import VQ
from support.reference_cases import own, snr
from support.unet_cases import binary_state, float_state
from support.unet_steps import HOWS, run, run_with_maps, step

FLOAT, BINARY = NETWORKS["resshift-unet"], NETWORKS["bimacosr"]


@pytest.fixture(scope="module")
def read(latent):
    """A checkpoint read from a file of published keys."""
    @functools.cache
    def once(name: str):
        state = {"float": float_state, "binary": binary_state}[name](latent)
        path = latent.shared(f"unet_{name}.safetensors", lambda path: save_file(state, path))
        return read_checkpoint(path, Options(autoencoder=str(latent.file(VQ))))
    return lambda name: own(once(name))


# -- against the published code -------------------------------------------------------------------
@pytest.mark.parametrize("how", HOWS)
def test_the_float_network_equals_the_published_code(latent, read, how):
    case, found = latent.arrays("forward_bimacosr_tiny"), read("float")
    for index, timestep in enumerate(case["timesteps"]):
        y, = run(step(found, int(timestep)), case, how)
        assert snr(case["prediction_float"][index], y) > 110
    y, = run(step(found, int(case["wide_timestep"])), case, how, "wide_")
    assert snr(case["wide_prediction_float"], y) > 110


@pytest.mark.parametrize("how", HOWS)
def test_the_binary_network_equals_the_published_code(latent, read, how):
    case, found = latent.arrays("forward_bimacosr_tiny"), read("binary")
    assert case["timesteps"].tolist() == [0, 14]
    y, = run(step(found, 14), case, how)
    assert snr(case["prediction_synthetic_state"][1], y) > 110


def test_layers_of_a_run_equal_the_published_ones(latent, read):
    case, found = latent.arrays("forward_bimacosr_tiny"), read("binary")
    y = apply_linear(found, "time_embed.0", case["layer:time_embed.0:x"][0].astype(np.float64))
    assert snr(case["layer:time_embed.0:y"][0], y) > 130
    y, = run(step(found, 14), case, outputs=["input_blocks.2.0.op"])
    assert snr(case["layer:input_blocks.2.0.op:y"], y) > 120


def test_the_torch_networks_equal_the_published_code(latent, read):
    torch = pytest.importorskip("torch")
    from bidiff_deploy.training.weights import torch_network

    case = latent.arrays("forward_bimacosr_tiny")
    x, lq = (torch.from_numpy(case[name]) for name in ("x", "lq"))
    with torch.inference_mode():
        found = torch_network(read("float"))(x, lq, 14)
        assert snr(case["prediction_float"][1], found.numpy()) > 110
        network = torch_network(read("binary"))
        _, maps = run_with_maps(read("binary"), 14, case)
        network.signs = {name: torch.from_numpy(np.sign(value)) for name, value in maps.items()}
        found = network(x, lq, 14)
        assert snr(case["prediction_synthetic_state"][1], found.numpy()) > 110
        assert max(size for _, size in network.flips.values()) < 1e-5
        assert len(network.flips) == len(maps) > 60


# -- recognition ----------------------------------------------------------------------------------
@pytest.mark.parametrize("layout, network, parameters", [
    ("resshift_unet", FLOAT, 118_593_583), ("bimacosr", BINARY, None)])
def test_published_layouts_are_recognised_and_counted(latent, layout, network, parameters):
    shapes = latent.shapes(layout, "vq_f4_full")
    assert matching_network(shapes) is network
    unused = network.unused_keys(shapes)
    config, _ = network.recognise(shapes, {}, "file")
    published = latent.layout(layout)["config"]
    for key, value in config.to_dict().items():
        if key not in ("autoencoder", "rank"):
            assert value == published[key], key
    wanted = {key for parameter in dict(network.each_parameter(config)).values()
              for key in parameter.published}
    assert wanted == set(shapes) - set(unused)
    counts = network.counts(config, 64, 64)[STEP]
    if parameters:
        assert counts.parameters == parameters and counts.binary_parameters == 0
        macs = counts.float_macs + counts.attention_macs + counts.time_macs
        assert round(macs / 1e9, 2) == 50.66
    else:
        assert counts.binary_parameters == 118_421_504 and config.rank == 8
        # What nothing reads: the shifts before signs, and branches of layers of stride 2.
        left = sum(int(np.prod(shapes[key])) for key in unused if key in
                   latent.layout(layout)["parameters"])
        assert round((counts.paper_parameters + left) / 1e6, 2) == 5.53
        why = set(unused.values())
        assert len(why) == 4 and sum(key.endswith(".move0.bias") for key in unused) == 118
        assert sum(key.endswith(".channel_threshold") for key in unused) == 60


def test_the_paper_counts_weights_alone(latent):
    """4.98 M: binary weights / 32, low-rank factors, position tables, first and last convolution;
    no sparse values, norms, biases, RPReLUs and shifts, which are 0.55 M."""
    shapes = latent.layout("bimacosr")["parameters"]
    sizes = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    binary = {key for key in sizes if f"{key.removesuffix('weight')}lora.A.weight" in sizes}
    weights = {key for key in sizes if ".lora." in key or key.endswith("_bias_table")
               or key.startswith(("input_blocks.0.0.", "out.2."))}
    counted = sum(sizes[key] for key in binary) / 32 + sum(sizes[key] for key in weights)
    assert round(counted / 1e6, 2) == 4.98
    rest = sum(sizes.values()) - sum(sizes[key] for key in binary | weights)
    assert round((counted + rest) / 1e6, 2) == 5.53


@pytest.mark.parametrize("change, sentence", [
    (lambda s: s.pop("time_embed.0.weight"), "it has no time_embed.0.weight"),
    (lambda s: s.update({"time_embed.0.weight": (4,)}), "the shape .* is not that of time_embed"),
    (lambda s: s.update({"feature_extractor.0.weight": (16, 3, 3, 3)}), "a stem for a condition"),
    (lambda s: s.update({"input_blocks.3.0.out_layers.3.weight": (33, 32, 3, 3)}), "no multiples"),
    (lambda s: s.pop("input_blocks.3.0.out_layers.3.weight"), "has no input_blocks.3.0.out_layers"),
    (lambda s: s.update({"middle_block.1.blocks.0.attn.relative_position_bias_table": (224, 2)}),
     "no table of a square window"),
    (lambda s: s.update({"input_blocks.1.1.blocks.1.attn_mask": (4, 64, 64)}), "different sizes")])
def test_other_layouts_are_refused_in_a_sentence(latent, change, sentence):
    shapes = dict(latent.shapes("bimacosr_tiny"))
    change(shapes)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        BINARY.recognise(shapes, {}, "the_file.pth")
    assert "the_file.pth" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given, sentence", [
    ({"swin_depth": 3}, "swin_depth=3.*tensors have swin_depth=2"), ({"rank": 8}, "rank=8"),
    ({"image_size": 64}, "image_size"), ({"num_res_blocks": [1, 1]}, "num_res_blocks"),
    ({"colour": 1}, "unknown network option"), ({"mlp_ratio": True}, "mlp_ratio"),
    ({"attention_resolutions": 5}, "attention_resolutions must be a list"),
    ({"attention_resolutions": [64]}, "attention_resolutions=")])
def test_options_that_contradict_the_tensors_are_refused(latent, given, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        BINARY.recognise(latent.shapes("bimacosr_tiny"), given, "file")


def test_options_are_read_as_they_were_written(read):
    for name, network in (("float", FLOAT), ("binary", BINARY)):
        config = read(name).config
        assert network.config(json.loads(json.dumps(config.to_dict())), "file") == config


def test_indices_are_rounded_and_those_outside_are_refused(read):
    found, name = read("binary"), "input_blocks.1.0.in_layers.2"
    key = f"{name}.skip_connection.indices_float"
    whole, state = ScaledLayer.of(found, name).indices, found.state[key]
    np.testing.assert_array_equal(whole, state)
    found.state[key] = state + np.float32([[0.3], [-0.4]])
    np.testing.assert_array_equal(ScaledLayer.of(found, name).indices, whole)
    found.state[key] = state + 31.6
    with pytest.raises(CheckpointError, match="indices outside a weight of 32x32"):
        step(found, 14)
    found.state[key] = state
