"""Packed checkpoints whose full-precision weights are float16."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.options import Options
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.checkpoint.record import Checkpoint
from bidiff_deploy.cli import group
from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.files import file_sha256
from bidiff_deploy.images.metrics import psnr_y
from bidiff_deploy.models.open import open_model
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig
from bidiff_deploy.proof.inspect.inspection import inspect_bundle
from support.latent_cases import VQ
from support.small_bbcu import small_bbcu
from support.unet_cases import binary_state

DIRECT = BbcuConfig(channels=32, blocks=2, scale=2, alignment=20.0, tail="direct", float_layers=3)


@pytest.fixture(params=["bi-diffsr", "bbcu", "ditsr", "bimacosr"])
def checkpoint(request, reference, latent):
    if request.param == "bimacosr":
        path = latent.shared("unet_binary.safetensors",
                             lambda path: save_file(binary_state(latent), path))
        return read_checkpoint(path, Options(autoencoder=str(latent.file(VQ))))
    return {"bi-diffsr": lambda: reference.read("tiny"), "bbcu": lambda: small_bbcu(DIRECT),
            "ditsr": lambda: latent.read("ditsr_tiny")}[request.param]()


def test_weights_are_rounded_once_and_nothing_else(checkpoint: Checkpoint, tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    write_packed(whole, checkpoint)
    write_packed(half, checkpoint, half=True)
    found = read_checkpoint(half)
    assert (found.config, found.sampling, found.scale) == (
        checkpoint.config, checkpoint.sampling, checkpoint.scale)
    saved = 0
    for name, value in checkpoint.state.items():
        kept = value.ndim < 2 or name.endswith("indices_float")
        wanted = value if kept else value.astype(np.float16).astype(np.float32)
        assert found.state[name].dtype == np.float32
        np.testing.assert_array_equal(found.state[name], wanted, name)
        saved += 0 if kept else value.nbytes // 2
    for name, weight in checkpoint.binary.items():
        np.testing.assert_array_equal(found.binary[name].words, weight.words)
        np.testing.assert_array_equal(found.binary[name].alpha, weight.alpha)
    assert abs(whole.stat().st_size - half.stat().st_size - saved) < 2000  # digits in the header
    # A second time changes no weight.
    write_packed(whole, found, overwrite=True, half=True)
    again = read_checkpoint(whole).state
    assert all(np.array_equal(again[name], value) for name, value in found.state.items())


def test_images_are_those_of_the_whole_file(tmp_path):
    """The command, on a packed file; then export, inspect and upscale of what it wrote."""
    whole, half, bundle = (tmp_path / name for name in (
        "whole.safetensors", "half.safetensors", "half.bundle"))
    write_packed(whole, small_bbcu(DIRECT))
    for arguments in (["pack", whole, "-o", half, "--half"], ["export", half, "-o", bundle]):
        done = CliRunner().invoke(group, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert open_bundle(bundle).manifest["source"]["sha256"] == file_sha256(half)
    assert not inspect_bundle(bundle, (16, 16)).disagreements
    image, images = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8), []
    for path in (whole, half, bundle):
        with open_model(str(path), threads=1, backend="onnxruntime-stock") as engine:
            images.append(engine.upscale(image))
    assert np.array_equal(images[1], images[2]) and not np.array_equal(images[0], images[1])
    assert psnr_y(images[1], images[0]) > 55


def test_a_weight_beyond_float16_is_refused(tmp_path):
    found = small_bbcu()
    name = next(name for name, value in found.state.items() if value.ndim == 4)
    found.state[name].flat[0] = -70000
    write_packed(tmp_path / "whole.safetensors", found)
    with pytest.raises(CheckpointError, match=r"has a value of 70000, and float16 ends at 65504;"):
        write_packed(tmp_path / "half.safetensors", found, half=True)
    done = CliRunner().invoke(group, ["pack", str(tmp_path / "whole.safetensors"), "--half", "-o",
                                      str(tmp_path / "half.safetensors")])
    assert done.exit_code == 1 and name in done.output and "leave --half out" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["whole.safetensors"]
