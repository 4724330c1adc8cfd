"""BiMaCoSR through export, inspect, check and one ONNX file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.engines import library
from bidiff_deploy.export.one_file import export_one_file
from bidiff_deploy.export.write import choose_timesteps, export_bundle
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from support import run_once
from support.latent_cases import VQ
from support.reference_cases import snr
from support.unet_cases import binary_state

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)


@pytest.fixture(scope="module")
def checkpoint(latent):
    path = latent.shared("unet_binary.safetensors",
                         lambda path: save_file(binary_state(latent), path))
    return read_checkpoint(path, Options(autoencoder=str(latent.file(VQ))))


@pytest.fixture(scope="module")
def bundle(latent, checkpoint):
    return latent.shared("bimacosr.bundle", lambda path: export_bundle(
        checkpoint, path, timesteps=choose_timesteps(checkpoint)))


def test_export_takes_one_step_and_names_what_is_not_read(checkpoint, bundle):
    assert choose_timesteps(checkpoint) == (14,)
    assumed = " ".join(checkpoint.assumptions)
    for sentence in ("75 tensors called move0.bias are not read",
                     "41 tensors called channel_threshold are not read",
                     "2 tensors called indices_float are not read: a layer of stride 2"):
        assert sentence in assumed


def test_inspect_knows_binary_layers_and_their_branches(checkpoint, bundle):
    found = inspect_bundle(bundle, (32, 32))
    assert not found.disagreements
    kinds = {layer.name: layer.found for layer in found.layers}
    packed = [name for name, layer in kinds.items() if layer.kind == "packed"]
    wanted = [name for name in checkpoint.network.binary_layers(checkpoint.config)
              if "time_embed" not in name and "emb_layers" not in name]
    assert packed == wanted
    branches = kinds["input_blocks.1.0.in_layers.2.lora"]
    assert branches.kind == "float" and branches.macs == (4 * 64 + 64) * 32 * 32
    assert "input_blocks.2.0.op.lora" not in kinds


def test_check_passes_and_finds_a_wrong_weight(checkpoint, bundle):
    pytest.importorskip("torch")
    from bidiff_deploy.bundle.manifest import open_bundle
    from bidiff_deploy.proof.check.latent import check_latent

    opened = open_bundle(bundle)
    result = check_latent(opened, checkpoint, threads=1, size=(32, 32))
    assert result and [step.name for step in result.steps] == ["encoder", "14", "decoder"]
    assert min(step.engine.snr for step in result.steps) > 100
    # A slope of one layer that is not the bundle's: what follows has other values and other signs.
    name = "input_blocks.1.0.in_layers.2.relu.pr_prelu.weight"
    slope = checkpoint.state[name].copy()
    slope[3] *= 1.01
    other = dataclasses.replace(checkpoint, state={**checkpoint.state, name: slope})
    result = check_latent(opened, other, threads=1, size=(32, 32))
    assert not result
    wrong, = (step for step in result.steps if not step.passed)
    assert wrong.name == "14" and "rounding cannot explain" in wrong.reason


def test_a_packed_file_is_the_same_network(checkpoint, tmp_path):
    write_packed(tmp_path / "packed.safetensors", checkpoint)
    again = read_checkpoint(tmp_path / "packed.safetensors")
    assert again.config == checkpoint.config and again.sampling == checkpoint.sampling
    for name, weight in checkpoint.binary.items():
        np.testing.assert_array_equal(again.binary[name].words, weight.words)


def test_one_file_in_standard_operators_computes_the_published_step(latent, checkpoint, tmp_path):
    path, case = tmp_path / "step.onnx", latent.arrays("forward_bimacosr_tiny")
    export_one_file(checkpoint, path, step=14)
    found = run_once.run(path, {"noisy": case["x"], "condition": case["lq"]})
    assert snr(case["prediction_synthetic_state"][1], found) > 110
