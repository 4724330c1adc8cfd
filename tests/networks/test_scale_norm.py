"""Norms that depend on the upscaling factor: UltraPixel's formula, folded, and who chooses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bidiff_deploy import load
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.checkpoint.record import at_scale
from bidiff_deploy.cli import group
from bidiff_deploy.errors import BundleError, CheckpointError, UsageError
from bidiff_deploy.export.one_file import export_one_file
from bidiff_deploy.models.open import scales_of
from bidiff_deploy.networks.bi_diffsr.binarizers import NONE, PUBLISHED
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.networks.bi_diffsr.scale_norm import folded, scale_embedding
from bidiff_deploy.training.networks.bi_diffsr import set_scale
from bidiff_deploy.training.weights import load_initial, published_state, torch_network
from support.binarizer_setup import checkpoint, inputs, network, predicted, small
from support.reference_cases import snr

pytest.importorskip("onnxruntime")
SCALES = (2, 3, 4)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)


def of_three(**options):
    return network(small(PUBLISHED, attn_res=(), scales=SCALES, **options))


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """A packed network of three scales, of one step from the noised input."""
    path = tmp_path_factory.mktemp("scales") / "three.safetensors"
    found = checkpoint(of_three())
    write_packed(path, dataclasses.replace(
        found, scale=None, sampling={"timesteps": [10], "start": 10}))
    return path


def test_the_formulas_reference(reference):
    """Sizes of the reference are in units of 24x24, as are those that a scale stands for."""
    case = reference.arrays("other/ultrapixel_scale")
    for (height, width), embedding in zip(case["sizes"], case["embedding"]):
        found = scale_embedding(np.sqrt(height * width) / 24, 64)
        assert found.dtype == np.float32 and np.abs(found - embedding).max() < 2e-6
    x, channels = case["x"].astype(np.float64), case["x"].shape[1]
    weight, bias = folded(np.ones(channels), np.zeros(channels), case["weight"], case["bias"],
                          scale_embedding(1, 64))
    y = x * weight[:, None, None] + bias[:, None, None]
    assert snr(case["y"], y) > 120 and snr(case["y"], x) < 20


def test_a_block_is_its_norm_and_the_formula():
    module = of_three()
    block = module.get_submodule("encoder.1")
    x = torch.randn(1, 8, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for scale in SCALES:
        set_scale(module, scale)
        embedding = torch.from_numpy(scale_embedding(scale, 8)).double()
        found = block.double()._normed(2, x, module.scale.double())
        n, (a, b) = block.norm2(x), block.scale2(embedding).chunk(2)
        assert torch.allclose(found, n * (1 + a[:, None, None]) + b[:, None, None] + n, atol=1e-12)


@pytest.mark.parametrize("binarizer", [NONE, PUBLISHED])
def test_a_chosen_scale_is_a_network_without_a_choice(binarizer):
    """Of the full-precision network the same function; of the binary one wherever no sign is
    decided by rounding, which none is here."""
    module = network(small(binarizer, scales=SCALES))
    whole = dataclasses.replace(checkpoint(module), scale=None)
    noisy, condition = inputs()
    found = {}
    for scale in SCALES:
        set_scale(module, scale)
        chosen = at_scale(whole, scale)
        assert chosen.config == small(binarizer) and chosen.scale == scale
        found[scale] = predicted(module, noisy, condition, 10)
        ours = predicted(torch_network(chosen), noisy, condition, 10)
        assert snr(found[scale], ours) > 90
    assert snr(found[2], found[3]) < 40


def test_options_and_recognition(tmp_path):
    for scales in ([3, 2], [2, 2], [1, 2], [2, 17], [3]):
        with pytest.raises(CheckpointError, match="two or more ascending whole numbers"):
            NetworkConfig(scales=tuple(scales))
    assert "scales" not in NetworkConfig().to_dict()
    module, path = of_three(), tmp_path / "run.pth"
    torch.save(published_state(module, module.config), path)
    given = Options({"norm_groups": 4, "total_step": 100})
    found = read_checkpoint(path, given)
    assert found.config.scales == SCALES and found.scale is None
    assert any("scales = [2, 3, 4]" in line for line in found.assumptions)
    assert read_checkpoint(path, given, 3).config.scales == ()


def test_a_network_of_one_scale_begins_as_one_of_several(packed):
    one = network(small(PUBLISHED, attn_res=()), seed=1)
    load_initial(one, packed, "three.safetensors", 3)
    chosen = torch_network(read_checkpoint(packed, scale=3))
    np.testing.assert_array_equal(predicted(one, *inputs(), 10), predicted(chosen, *inputs(), 10))
    with pytest.raises(CheckpointError, match="upscales by 2, 3, 4, not by 8; begin with"):
        load_initial(one, packed, "three.safetensors", 8)


def test_a_scale_is_chosen_or_asked_for(packed):
    whole = read_checkpoint(packed)
    assert whole.scale is None and whole.config.scales == SCALES
    says = r"three.safetensors upscales by 2, 3 or 4"
    with pytest.raises(CheckpointError, match=says + ", not by 5$"):
        read_checkpoint(packed, scale=5)
    for refused in (lambda: load(packed), lambda: export_one_file(whole, "x.onnx", step=10)):
        with pytest.raises(UsageError, match=says + "; choose one of these as the scale"):
            refused()
    assert scales_of(str(packed)) == SCALES and scales_of("photo-x4") == (4,)
    images = {}
    for scale in SCALES:
        with load(packed, scale=scale, threads=1) as engine:
            images[scale] = engine.upscale(PIXELS)
        assert images[scale].shape == (12 * scale, 10 * scale, 3)


def test_the_commands_choose(packed, tmp_path):
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(group, [str(one) for one in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    bundle = tmp_path / "x3.bundle"
    run("export", packed, "-o", bundle, "--scale", 3, "--quiet")
    manifest = open_bundle(bundle).manifest
    assert manifest["scale"] == 3 and "scales" not in manifest["network"]
    # The checkpoint's network is that of the bundle's scale, and of no other.
    checked = json.loads(run("check", bundle, packed, "--size", "16x16", "--json", "--threads", 1))
    assert checked["passed"]
    run("pack", packed, "-o", tmp_path / "four.safetensors", "--scale", 4)
    other = CliRunner().invoke(group, ["check", str(bundle), str(tmp_path / "four.safetensors"),
                                       "--size", "16x16", "--threads", "1", "--quiet"])
    assert other.exit_code == 1 and "fail" in str(other.output)
    assert json.loads(run("inspect", packed, "--scale", 4, "--size", "16x16",
                          "--json"))["scale"] == 4
    wrong = CliRunner().invoke(group, ["inspect", str(bundle), "--scale", "4"])
    assert wrong.exit_code == 1 and "upscales by 3, not by 4" in str(wrong.output)


def test_a_bundle_of_several_scales_is_refused(packed, tmp_path, edit_manifest):
    bundle = tmp_path / "x2.bundle"
    assert CliRunner().invoke(group, ["export", str(packed), "-o", str(bundle), "--scale", "2",
                                      "--quiet"]).exit_code == 0
    edit_manifest(bundle, lambda manifest: manifest["network"].update(scales=[2, 3]))
    with pytest.raises(BundleError, match="of which a bundle has one"):
        open_bundle(bundle)
