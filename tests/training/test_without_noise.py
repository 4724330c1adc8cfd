"""A student that starts without noise is a function of the image, in every form, and says so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors import safe_open

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group as cli
from bidiff_deploy.errors import UsageError
from bidiff_deploy.export.one_file import one_file_model
from bidiff_deploy.export.write import choose_timesteps, export_bundle
from bidiff_deploy.images.image import Image
from bidiff_deploy.proof.torch_engines import open_checkpoint
from bidiff_deploy.report.page import environment
from bidiff_deploy.training.recipe import recipe_from_dict
from support import run_once
from support.binarizer_setup import checkpoint, network
from support.training_setup import TREE, TWO_LEVELS, changed, one_step_tree, picture


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_student_without_noise_is_a_function_of_the_image(folder):
    """Trained, packed, exported and checked; seed and noise change nothing, and it says so."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(one_step_tree(
        {"timestep": 40, "noise": False, "image": 1}, run={"iterations": 3},
        data={"validate": []}, network={**TWO_LEVELS, "dropout": 0.0})))
    run("train", folder / "recipe.yaml", "-o", folder / "run", "--pack", folder / "n.safetensors")
    found = read_checkpoint(folder / "n.safetensors")
    assert found.sampling == {"timesteps": [40], "start": 40, "noise": "none"}
    assert read_checkpoint(folder / "run" / "checkpoint.pt").sampling == found.sampling
    run("export", folder / "n.safetensors", "-o", folder / "b")
    manifest = json.loads((folder / "b" / "manifest.json").read_text())
    assert manifest["schema_version"] == 3 and manifest["sampling"]["noise"] == "none"
    assert "without noise: a function of the image alone" in " ".join(
        run("inspect", folder / "b").split())
    inspection = json.loads(run("inspect", folder / "b", "--json"))
    assert inspection["sampling"]["noise"] is False
    shown = environment().get_template("sections/bundle.html").render(inspection=inspection)
    assert "the input, without noise: a function of the image alone" in shown
    verdict = json.loads(run("check", folder / "b", folder / "n.safetensors", "--json"))
    assert verdict["passed"], verdict["verdicts"]

    low = Image(picture(40, 36))
    with load_bundle(folder / "b", threads=1, backend="onnxruntime-stock") as engine:
        assert engine.noiseless and engine.default_start == 40
        whole = engine.upscale_image(low)
        assert np.array_equal(engine.upscale_image(low, 9).pixels, whole.pixels)
        tiles = [engine.upscale_image(low, seed, tile=64, overlap=32).pixels for seed in (0, 3)]
        assert np.array_equal(*tiles)
        condition = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
        alpha = engine.schedule.alphas_cumprod[40]
        noise = engine.predict(np.sqrt(alpha) * condition, condition, 40)
        by_hand = condition - np.sqrt(1 - alpha) / np.sqrt(alpha) * noise
        for given in (None, np.ones_like(condition)):
            result = engine.sample(condition, given, seed=2)
            assert np.allclose(result, by_hand.clip(0, 1), atol=1e-5)
        for start in (None, 30):
            with pytest.raises(UsageError, match="starts from the image alone"):
                engine.sample(condition, start=start)
    with open_checkpoint(folder / "run" / "checkpoint.pt", device="cpu") as engine:
        assert engine.noiseless
        found_pixels = engine.upscale_image(low).pixels.astype(int)
    assert np.abs(found_pixels - whole.pixels).mean() < 1


def test_one_file_without_noise(folder):
    config = recipe_from_dict(changed(network={"binarizer": "none"})).network
    found = replace(checkpoint(network(config, 5)), schedule={"total_steps": 80}, scale=2,
                    sampling={"timesteps": [40], "start": 40, "noise": "none"})
    model = one_file_model(found)
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts["noise"] == "none"
    assert not any("noise" in tensor.name for tensor in model.graph.initializer
                   if tensor.name != "of_noise")
    low = picture(12, 10)
    result = run_once.run(model, {"input": (low / np.float32(255)).transpose(2, 0, 1)[None]})
    export_bundle(found, folder / "b", timesteps=choose_timesteps(found))
    with load_bundle(folder / "b", threads=1, backend="onnxruntime-stock") as engine:
        wanted = engine.upscale_image(Image(low)).pixels
    assert np.abs(np.rint(result[0].transpose(1, 2, 0) * 255) - wanted).max() <= 1


def test_older_versions_refuse_what_they_cannot_run(folder):
    """A packed file and a bundle state a newer schema only if sampling starts without noise."""
    found = checkpoint(network(recipe_from_dict(TREE).network, 5))
    for sampling, schemas in (({"timesteps": [40], "start": 40}, (1, 2)),
                              ({"timesteps": [40], "start": 40, "noise": "none"}, (2, 3))):
        one = replace(found, schedule={"total_steps": 80}, scale=2, sampling=sampling)
        write_packed(folder / "p.safetensors", one, overwrite=True)
        with safe_open(folder / "p.safetensors", "np") as file:
            header = json.loads(file.metadata()["bidiff"])
        manifest = export_bundle(one, folder / "b", timesteps=[40], overwrite=True)
        assert (header["schema"], manifest["schema_version"]) == schemas
