"""Latent networks' files: two published ones, one packed, options in the published form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from bidiff_deploy.checkpoint.options import Options, given_options, read_options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.checkpoint.record import with_sampler
from bidiff_deploy.errors import CheckpointError, UsageError
from bidiff_deploy.sampling.resshift import ResShiftSchedule
from support.latent_cases import VQ


def published_options(latent, **changes) -> dict:
    """An option file like the published ones."""
    model = dict(latent.layout("ditsr_tiny")["config"])
    diffusion = {"sf": 4, "schedule_name": "exponential", "schedule_kwargs": {"power": 0.3},
                 "etas_end": 0.99, "steps": 4, "min_noise_level": 0.2, "kappa": 2.0,
                 "predict_type": "xstart", "timestep_respacing": None, "scale_factor": 1.0,
                 "normalize_input": True, "latent_flag": True, "weighted_mse": False}
    coder = latent.layout(VQ)["config"]
    found: dict = {"model": {"target": "models.unet.DiTSRModel", "params": model},
             "diffusion": {"params": diffusion}, "autoencoder": {"params": coder},
             "train": {"lr": "5e-5"}}
    for path, value in changes.items():
        *parts, last = path.split("__")
        place: dict = found
        for part in parts:
            place = place[part]
        place[last] = value
    return found


def test_two_published_files_become_one_checkpoint(latent):
    found = latent.read("ditsr_tiny")
    assert (found.scale, found.sampling) == (4, {"sampler": "ancestral"})
    assert found.schedule == ResShiftSchedule().to_dict()
    assert set(found.state) == set(found.network.parameters(found.config))
    text = "\n".join(found.assumptions)
    assert f"the autoencoder is {VQ}.safetensors, SHA-256" in text
    assert "total_steps = 15, the published default" in text
    assert "4 tensors called attn_mask are not read" in text


def test_a_packed_checkpoint_has_both(latent, tmp_path):
    found, again = latent.read("ditsr_tiny"), read_checkpoint(latent.packed("ditsr_tiny"))
    assert again.config == found.config and again.schedule == found.schedule
    assert all(np.array_equal(again.state[name], value) for name, value in found.state.items())
    write_packed(tmp_path / "b.safetensors", with_sampler(found, "deterministic"))
    assert read_checkpoint(tmp_path / "b.safetensors").sampling["sampler"] == "deterministic"
    write_packed(tmp_path / "b.safetensors",
                 dataclasses.replace(found, sampling={"sampler": "x"}), overwrite=True)
    with pytest.raises(CheckpointError, match="'x' is not known; use ancestral"):
        read_checkpoint(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="leave --autoencoder out"):
        read_checkpoint(latent.packed("ditsr_tiny"),
                        Options(autoencoder=str(latent.file(VQ))))


@pytest.mark.parametrize("prefix, more", [
    ("", {"loss.discriminator.main.0.weight": np.zeros(3, np.float32)}),
    ("module.", {}), ("_orig_mod.", {}),
    ("first_stage_model.", {"model.diffusion_model.out.weight": np.zeros(3, np.float32)})])
def test_an_autoencoder_is_found_under_prefixes(latent, tmp_path, prefix, more):
    save_file({f"{prefix}{key}": value for key, value in latent.state(VQ).items()} | more,
              tmp_path / "vq.safetensors")
    found = read_checkpoint(latent.file("ditsr_tiny"),
                            Options(autoencoder=str(tmp_path / "vq.safetensors")))
    assert all(np.array_equal(found.state[name], value)
               for name, value in latent.read("ditsr_tiny").state.items())
    assert any("not the autoencoder's" in line for line in found.assumptions) == bool(more)


@pytest.mark.parametrize("change, sentence", [
    (lambda s: s.pop("decoder.conv_out.bias"), "1 missing key .autoencoder.decoder.conv_out.bias"),
    (lambda s: s.update({"decoder.more": np.zeros(2, np.float32)}), "1 unexpected key"),
    (lambda s: s.update({"quant_conv.bias": np.zeros(4, np.float32)}), "quant_conv.bias has shape"),
    (lambda s: s.update({"quant_conv.bias": np.full(3, np.nan, np.float32)}), "NaN or infinite"),
    (lambda s: s.pop("encoder.conv_in.weight"), "one VQ autoencoder.*it has no encoder.conv_in"),
    (lambda s: s.update({f"b.{key}": value for key, value in list(s.items())}),
     "it has 2: '', 'b.'")])
def test_other_autoencoders_are_refused_in_a_sentence(latent, tmp_path, change, sentence):
    state = latent.state(VQ)
    change(state)
    save_file(state, tmp_path / "vq.safetensors")
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(latent.file("ditsr_tiny"),
                        Options(autoencoder=str(tmp_path / "vq.safetensors")))


def test_an_autoencoder_is_asked_for_and_refused_elsewhere(latent, reference):
    with pytest.raises(CheckpointError, match="DiT-SR without its autoencoder.*--autoencoder"):
        read_checkpoint(latent.file("ditsr_tiny"))
    with pytest.raises(CheckpointError, match="BI-DiffSR, which has no autoencoder"):
        read_checkpoint(reference.checkpoint("tiny"), Options(autoencoder="any"))
    with pytest.raises(UsageError, match="which has no other sampler; leave --sampler out"):
        with_sampler(reference.read("tiny"), "ancestral")


def test_missing_and_unexpected_keys_of_the_network_are_named(latent, tmp_path):
    state = latent.state("ditsr_tiny")
    del state["out.2.bias"]
    state["out.9.bias"] = np.zeros(2, np.float32)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing key \(out.2.bias\) and 1 unexpected key "
                                              r"\(out.9.bias\)"):
        read_checkpoint(tmp_path / "a.safetensors", Options(autoencoder=str(latent.file(VQ))))


# -- options --------------------------------------------------------------------------------------
def read(latent, tmp_path, **changes):
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump(published_options(latent, **changes)))
    return read_checkpoint(latent.file("ditsr_tiny"),
                           given_options(str(path), str(latent.file(VQ))))


def test_published_options_give_the_schedule(latent, tmp_path):
    found = read(latent, tmp_path)
    assert found.schedule == ResShiftSchedule(4, min_noise_level=0.2).to_dict()
    assert not any("default" in line for line in found.assumptions)
    assert read(latent, tmp_path, diffusion__params__timestep_respacing=2).sampling["steps"] == 2


@pytest.mark.parametrize("changes, sentence", [
    ({"model__params__swin_depth": 6}, "swin_depth=6"),
    ({"model__params__lq_size": 64}, "lq_size 64 is not its image_size 32"),
    ({"model__params__patch_norm": True}, "patch_norm True is not supported"),
    ({"model__params__swin": 1}, "unknown network option swin"),
    ({"diffusion__params__predict_type": "epsilon"}, "predict_type 'epsilon' is not supported"),
    ({"diffusion__params__kappa": "a"}, "kappa of the ResShift schedule is 'a'"),
    ({"diffusion__params__sf": 2}, "upscales by 4, .* not by 2"),
    ({"diffusion__params__timestep_respacing": "ddim4"}, "must be a number of steps"),
    ({"diffusion__params": []}, None), ({"diffusion__params": [1]}, "must be a mapping"),
    ({"autoencoder__params__ddconfig__ch": 64}, "another autoencoder"),
    ({"autoencoder__params__ddconfig__attn_resolutions": [16]}, "attn_resolutions"),
    ({"autoencoder__params__n_embed": 32}, "another autoencoder")])
def test_options_of_another_network_are_refused(latent, tmp_path, changes, sentence):
    if sentence is None:
        assert read(latent, tmp_path, **changes).schedule == ResShiftSchedule().to_dict()
        return
    with pytest.raises(CheckpointError, match=sentence) as caught:
        read(latent, tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_options_of_a_noise_predictor_are_refused(latent, reference):
    options = dataclasses.replace(read_options(reference.options("tiny")),
                                  autoencoder=str(latent.file(VQ)))
    with pytest.raises(CheckpointError, match="unknown network option"):
        read_checkpoint(latent.file("ditsr_tiny"), options)
    with pytest.raises(CheckpointError, match="does not have"):
        read_checkpoint(latent.file("ditsr_tiny"),
                        dataclasses.replace(options, network={}))
