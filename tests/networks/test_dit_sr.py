"""DiT-SR and the VQ autoencoder against outputs of the published code."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import numpy_helper

from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.networks import NETWORKS, matching_network
from bidiff_deploy.networks.base import DECODER, ENCODER, STEP
from bidiff_deploy.networks.dit_sr.architecture import DitSrConfig
from bidiff_deploy.networks.dit_sr.graph import build_step, step_kernels
from bidiff_deploy.networks.dit_sr.modulation import circulant_places, kernel
from bidiff_deploy.networks.resshift.time_embedding import time_features
from bidiff_deploy.networks.resshift.windows import Level, relative_positions, shift_mask
from support import run_once
from support.reference_cases import snr

DIT = NETWORKS["dit-sr"]


@pytest.fixture(scope="module")
def tiny(latent):
    return latent.read("ditsr_tiny")


def run(built, **inputs) -> np.ndarray:
    return run_once.run(built.model, inputs)


# -- against the published code -------------------------------------------------------------------
@pytest.mark.parametrize("timestep, index", [(0, 0), (7, 1), (14, 2)])
def test_a_step_equals_the_published_code(latent, tiny, timestep, index):
    case = latent.arrays("forward_ditsr_tiny")
    found = run(build_step(tiny, numpy_helper.from_array, timestep), noisy=case["square_x"],
                condition=case["square_lq"])
    assert snr(case["square_prediction"][index], found) > 110


def test_a_wide_map_and_a_batch_equal_the_published_code(latent, tiny):
    case = latent.arrays("forward_ditsr_tiny")
    found = run(build_step(tiny, numpy_helper.from_array, 3), noisy=case["wide_x"],
                condition=case["wide_lq"])
    assert snr(case["wide_prediction"][0], found) > 110
    for index, timestep in enumerate(case["batch_timesteps"]):
        found = run(build_step(tiny, numpy_helper.from_array, int(timestep)),
                    noisy=case["batch_x"], condition=case["batch_lq"])
        assert snr(case["batch_prediction"][index], found[index]) > 110


@pytest.mark.parametrize("shape", ["square", "wide"])
def test_the_autoencoder_equals_the_published_code(latent, tiny, shape):
    case = latent.arrays("forward_vq_f4_tiny")
    encoder, decoder = (DIT.build_part(tiny, numpy_helper.from_array, part)
                        for part in (ENCODER, DECODER))
    assert snr(case[f"{shape}_latent"], run(encoder, image=case[f"{shape}_image"])) > 105
    assert snr(case[f"{shape}_decoded"], run(decoder, latent=case[f"{shape}_latent"])) > 100


def test_modulation_is_the_published_fourier_transform(latent):
    case = latent.arrays("adafm")
    found = kernel(case["scale"])
    assert np.abs(found - case["kernel"]).max() < 1e-7
    matrix = found.reshape(-1)[circulant_places(8)]
    assert np.array_equal(matrix, matrix.T)
    y = case["x"].reshape(-1, 64) @ matrix
    assert snr(case["y"].reshape(-1, 64), y) > 130
    assert len(set(np.round(found, 12).reshape(-1))) <= 34


@pytest.mark.parametrize("cell", [2, 4, 6, 5])
def test_modulation_of_other_cells_is_a_fourier_transform(cell):
    rng = np.random.default_rng(cell)
    scale, x = rng.standard_normal((cell, cell // 2 + 1)), rng.standard_normal((3, cell, cell))
    spectrum = np.fft.rfft2(x) * scale
    matrix = kernel(scale).reshape(-1)[circulant_places(cell)]
    expected = np.fft.irfft2(spectrum, s=(cell, cell))
    assert np.allclose(x.reshape(3, -1) @ matrix, expected.reshape(3, -1), atol=1e-12)


def test_a_step_has_the_published_scales(latent, tiny):
    case = latent.arrays("forward_ditsr_tiny")
    timestep, name = int(case["block_timestep"]), str(case["block_key"])
    time = time_features(tiny.state, timestep, tiny.config.model_channels)
    assert snr(case["block_time_embedding"][0], time) > 115
    found = step_kernels(tiny, timestep)[f"{name}.adaLN_scale_msa.kernel"]
    assert np.abs(found - kernel(case["block_scale_msa"]).reshape(-1)).max() < 1e-6


def test_the_mask_of_a_shifted_block_is_the_published_one(latent):
    """Of a map of 16x24: the last row of windows has it, no other."""
    masks = latent.arrays("forward_ditsr_tiny")["block_attn_mask"]
    assert not masks[:3].any()
    for mask in masks[3:]:
        assert np.array_equal(mask, shift_mask(8, 4))


# -- windows --------------------------------------------------------------------------------------
def test_windows_are_those_of_the_nominal_size():
    assert Level.of(0, 64, 8) == Level(0, 8, 4)
    assert Level.of(3, 8, 8) == Level(3, 8, 0) and Level.of(4, 4, 8) == Level(4, 4, 0)
    places = relative_positions(3)
    assert places[0, 0] == 12 and places[8, 0] == 24 and places[0, 8] == 0
    assert places[0, 1] == 11 and places[1, 0] == 13 and places[3, 0] == 17


def test_sizes_are_multiples_of_the_lowest_levels_windows():
    assert DitSrConfig().size_multiple == 64
    small = DitSrConfig(image_size=32, attention_resolutions=(32, 16, 8))
    assert small.size_multiple == 32 and small.level(3) == Level(3, 4, 0) and small.cell(3) == 4
    wide = DitSrConfig(window_size=16)
    assert (wide.level(0).shift, wide.level(2).window, wide.level(2).shift) == (8, 16, 0)
    assert wide.size_multiple == 64 and wide.cell(2) == 8


# -- recognition ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name, parameters, giga_macs", [
    ("realsr", 60_789_631, 48.1), ("lite", 30_894_862, 25.5)])
def test_published_layouts_are_recognised_and_counted(latent, name, parameters, giga_macs):
    shapes = latent.shapes(f"ditsr_{name}", "vq_f4_full")
    assert matching_network(shapes) is DIT
    config, assumed = DIT.recognise(shapes, {}, "file")
    published = latent.layout(f"ditsr_{name}")["config"]
    assert assumed == []
    for key, value in config.to_dict().items():
        if key != "autoencoder":
            assert value == published[key], key
    own = {key: parameter.shape for key, parameter in DIT.step_parameters(config)}
    wanted = latent.layout(f"ditsr_{name}")["parameters"]
    assert own == {key: tuple(shape) for key, shape in wanted.items()}
    counts = DIT.counts(config, 64, 64)
    assert counts[STEP].parameters == parameters
    without = sum(one.macs for one in counts[STEP].layers if "adaLN" not in one.name) / 1e9
    assert round(without, 1) == giga_macs
    assert counts[ENCODER].parameters + counts[DECODER].parameters == sum(
        int(np.prod(shape)) for shape in latent.layout("vq_f4_full")["parameters"].values())
    convolutions = [round(counts[part].float_macs / 1e9, 1) for part in (ENCODER, DECODER)]
    # The decoder's include the search of the nearest code, 0.1 G.
    assert convolutions == [155.4, 318.2]
    assert {round(counts[part].attention_macs / 1e9, 1) for part in (ENCODER, DECODER)} == {17.2}


def test_without_masks_the_nominal_size_is_the_options_or_assumed(latent):
    shapes = {key: shape for key, shape in latent.shapes("ditsr_tiny").items()
              if not key.endswith(".attn_mask")}
    config, assumed = DIT.recognise(shapes, {"image_size": 32}, "file")
    assert config == DIT.recognise(latent.shapes("ditsr_tiny"), {}, "file")[0] and not assumed
    config, assumed = DIT.recognise(shapes, {}, "file")
    assert config.image_size == 64 and "image_size = 64" in assumed[0]
    assert config.attention_resolutions == (64, 32, 16)


@pytest.mark.parametrize("change, sentence", [
    (lambda s: s.pop("input_blocks.0.0.weight"), "it has no input_blocks.0.0.weight"),
    (lambda s: s.update({"time_embed.0.weight": (4,)}), "the shape .* is not that of time_embed"),
    (lambda s: s.update({"feature_extractor.0.weight": (16, 3, 3, 3)}), "stem of the face model"),
    (lambda s: s.update({"input_blocks.1.0.patch_embed.norm.weight": (32,)}), "norms in its patch"),
    (lambda s: s.update({"input_blocks.2.0.op.weight": (33, 32, 3, 3)}), "no multiples of"),
    (lambda s: s.update({"middle_block.0.blocks.7.norm1.weight": (32,)}), "not numbered from 0"),
    (lambda s: s.update({"middle_block.0.blocks.0.attn.relative_position_bias_table": (224, 2)}),
     "no table of a square window"),
    (lambda s: s.update({"input_blocks.1.0.blocks.1.attn_mask": (4, 64, 64)}), "different sizes"),
    (lambda s: [s.pop(key) for key in list(s) if key.startswith("autoencoder.")],
     "without its autoencoder.*--autoencoder"),
    (lambda s: s.pop("autoencoder.encoder.conv_in.weight"), "no VQ autoencoder.*it has no encoder"),
    (lambda s: s.update({"autoencoder.encoder.down.0.attn.0.q.weight": (32, 32, 1, 1)}),
     "attention outside its middle"),
    (lambda s: s.pop("autoencoder.encoder.down.1.block.0.conv2.weight"), "not numbered from 0")])
def test_other_layouts_are_refused_in_a_sentence(latent, change, sentence):
    shapes = dict(latent.shapes("ditsr_tiny"))
    change(shapes)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        DIT.recognise(shapes, {}, "the_file.pth")
    assert "the_file.pth" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given, sentence", [
    ({"swin_depth": 3}, "swin_depth=3.*tensors have swin_depth=2"),
    ({"image_size": 64}, "image_size"), ({"attention_resolutions": [32]}, "attention_resolutions"),
    ({"num_head_channels": 32}, "num_head_channels"), ({"colour": 1}, "unknown network option"),
    ({"autoencoder": {"codes": 8}}, "another autoencoder"), ({"mlp_ratio": True}, "mlp_ratio"),
    ({"channel_mult": "124"}, "channel_mult must be a list")])
def test_options_that_contradict_the_tensors_are_refused(latent, given, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        DIT.recognise(latent.shapes("ditsr_tiny"), given, "file")


def test_options_are_read_as_they_were_written(tiny):
    written = json.loads(json.dumps(tiny.config.to_dict()))
    assert DIT.config(written, "file") == tiny.config


# -- torch ----------------------------------------------------------------------------------------
def test_the_torch_network_equals_the_published_code(latent, tiny):
    torch = pytest.importorskip("torch")
    from bidiff_deploy.training.weights import torch_network

    network, case = torch_network(tiny), latent.arrays("forward_ditsr_tiny")
    coder = latent.arrays("forward_vq_f4_tiny")
    with torch.inference_mode():
        found = network(*(torch.from_numpy(case[f"wide_{name}"]) for name in ("x", "lq")), 3)
        assert snr(case["wide_prediction"][0], found.numpy()) > 115
        latents = torch.from_numpy(coder["wide_latent"])
        assert snr(coder["wide_latent"],
                   network.encode(torch.from_numpy(coder["wide_image"])).numpy()) > 105
        assert np.abs(network.quantise(latents).numpy() - coder["wide_quantised"]).max() < 1e-6
        assert snr(coder["wide_decoded"], network.decode(latents).numpy()) > 100
