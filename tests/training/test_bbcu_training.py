"""Training of BBCU-M: the recipe, the loop, and its checkpoints up to an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group
from bidiff_deploy.errors import UsageError
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.images import metrics
from bidiff_deploy.images.resample import to_unit
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig
from bidiff_deploy.training.crops import LOW, open_crops
from bidiff_deploy.training.loop import train
from bidiff_deploy.training.networks.bbcu import Bbcu
from bidiff_deploy.training.one_run import OneRunTask, enlarged
from bidiff_deploy.training.photo_losses import photo_loss
from bidiff_deploy.training.recipe import PHOTO_LOSSES, read_recipe, recipe_from_dict
from bidiff_deploy.training.validate import load_pairs

SHIPPED = Path(__file__).parents[2] / "training"
TREE: dict[str, Any] = {
    "scale": 2, "model": "bbcu", "network": {"channels": 8, "blocks": 1, "alignment": 10},
    "data": {"crop": 16, "candidates": 2, "train": ["photo.png"], "validate": ["photo.png"]},
    "optimizer": {"learning_rate": 2e-3, "ema": 0.5},
    "run": {"iterations": 30, "batch": 4, "threads": 1, "report_every": 10, "validate_every": 30},
}


@pytest.fixture
def folder(tmp_path):
    y, x = np.mgrid[:40, :50]
    waves = np.stack([np.sin(x / 3 + c) + np.cos(y / 4) for c in range(3)], -1)
    edges = ((x // 5 + y // 7) % 2)[..., None] * 60
    Image.fromarray((90 + 40 * waves + edges).clip(0, 255).astype(np.uint8)).save(
        tmp_path / "photo.png")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TREE))
    return tmp_path


def test_recipes_are_of_the_shipped_network():
    for scale in (2, 4):
        recipe = read_recipe(SHIPPED / f"bbcu_m_x{scale}.yaml")
        assert recipe.network == BbcuConfig(scale=scale)  # the published options
        demo = read_recipe(SHIPPED / "demo_x2.yaml").data
        assert (recipe.data.train, recipe.data.validate) == (demo.train, demo.validate)
        named = {photo.path.rpartition("/")[2] for photo in recipe.data.train}
        assert not named & {"chelsea.png", "china.jpg"}
        assert recipe_from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("change, says", [
    ({"model": "srgan"}, "model must be one of bi-diffsr, bbcu"),
    ({"steps": [{"timestep": 3}]}, "steps applies only to diffusion models"),
    ({"network": {"channels": 8, "scale": 4}}, "network.scale=4 must be scale=2"),
    ({"network": {"inner_channel": 8}}, "unknown network option inner_channel"),
    ({"data": {**TREE["data"], "crop": 15}}, "crop=15 must be a multiple of 2"),
    ({"loss": "luma", "data": {**TREE["data"], "crop": 10}}, "crop=10 must be at least 11"),
    ({"loss": "l3"}, "loss of bbcu must be one of l1, l2, psnr, luma, not 'l3'"),
    ({"scale": 5}, "scale=5 must be one of 2, 3, 4")])
def test_recipes_that_are_none(change, says):
    with pytest.raises(UsageError, match=says):
        recipe_from_dict({**TREE, **change})


ORIENTATIONS = [lambda image, turns=turns, flip=flip: torch.rot90(
    image.flip(2) if flip else image, -turns, (1, 2))
    for turns in range(4) for flip in (False, True)]


def is_window(photo, small, high, low) -> bool:
    """Whether both are windows of their images, at the same place."""
    windows = low.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4)
    places = (windows == small).flatten(2).all(-1).nonzero().tolist()
    return any(torch.allclose(high[:, 2 * top:2 * top + 16, 2 * left:2 * left + 16], photo)
               for top, left in places)


def test_crops_come_with_their_own_pixels(folder):
    recipe = recipe_from_dict(TREE)
    crops = open_crops(recipe, folder, given=LOW)
    photos, lows = crops.batch(0, 12)
    assert photos.shape == (12, 3, 16, 16) and lows.shape == (12, 3, 8, 8)
    (pair,) = load_pairs(recipe.data.train, folder, 2)
    low = torch.from_numpy(to_unit(pair.low)).permute(2, 0, 1)
    high = torch.from_numpy(to_unit(pair.high)).permute(2, 0, 1)
    for photo, small in zip(photos, lows):
        assert any(is_window(turned(photo), turned(small), high, low) for turned in ORIENTATIONS)
    unaligned = recipe_from_dict({**TREE, "data": {**TREE["data"], "aligned": False}})
    with pytest.raises(UsageError, match="data.aligned must be true"):
        open_crops(unaligned, folder, given=LOW)


def test_a_run_learns_and_its_checkpoints_are_its_network(folder):
    recipe, lines = recipe_from_dict(TREE), []
    path = train(recipe, folder, folder / "run", report=lines.append)
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if "loss " in line]
    assert losses[-1] < losses[0]
    run = read_checkpoint(path)
    assert run.config == recipe.network and run.config.alignment == 10  # of no published tensor
    assert not any("alignment" in line for line in run.assumptions)

    done = CliRunner().invoke(group, [
        "train", str(folder / "recipe.yaml"), "-o", str(folder / "run"), "--resume", "--pack",
        str(folder / "packed.safetensors")])
    assert done.exit_code == 0, done.output
    packed = read_checkpoint(folder / "packed.safetensors")
    (pair,) = load_pairs(recipe.data.validate, folder, 2)
    images = []
    for name, checkpoint in (("run", run), ("packed", packed)):
        export_bundle(checkpoint, folder / f"{name}.bundle")
        with load_bundle(folder / f"{name}.bundle", threads=1) as engine:
            images.append(engine.upscale(pair.low))
    assert np.array_equal(*images)
    # What validation measured is what the engine gives.
    network = Bbcu(recipe.network)
    network.load_state_dict({name: torch.from_numpy(value.copy())
                             for name, value in run.latent().items()})
    difference = np.abs(enlarged(network, pair.low).astype(int) - images[0])
    assert np.count_nonzero(difference) <= 0.001 * difference.size and difference.max() <= 1


def test_a_resumed_run_is_the_run(folder):
    recipe = recipe_from_dict({**TREE, "run": {**TREE["run"], "iterations": 4}})
    half = recipe_from_dict({**TREE, "run": {**TREE["run"], "iterations": 2},
                             "optimizer": {**TREE["optimizer"], "schedule": "constant"}})
    whole = recipe_from_dict({**recipe.to_dict(), "optimizer": half.to_dict()["optimizer"]})
    one = train(whole, folder, folder / "one", report=lambda line: None)
    train(half, folder, folder / "two", report=lambda line: None)
    two = train(whole, folder, folder / "two", resume=True, report=lambda line: None)
    a, b = (torch.load(path, weights_only=True) for path in (one, two))
    for part in ("params", "params_ema"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])


def test_initial_weights(folder):
    recipe = recipe_from_dict({**TREE, "run": {**TREE["run"], "iterations": 1}})
    train(recipe, folder, folder / "run", report=lambda line: None)
    found = read_checkpoint(folder / "run" / "checkpoint.pt")
    task = OneRunTask(recipe_from_dict({**TREE, "initial": "run/checkpoint.pt"}), folder)
    for name, value in task.network.named_parameters():
        assert np.array_equal(value.detach().numpy() >= 0, found.latent()[name] >= 0)
    other = recipe_from_dict({**TREE, "initial": "run/checkpoint.pt",
                              "network": {**TREE["network"], "alignment": 11}})
    with pytest.raises(Exception, match="its network options differ"):
        OneRunTask(other, folder)


def test_the_loss_is_of_the_image_or_of_each_images_psnr_or_of_luma(folder):
    low = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    high = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = {}
    for name in PHOTO_LOSSES:
        task = OneRunTask(recipe_from_dict({**TREE, "loss": name}), folder)
        found[name] = task.objective()(low, high)["loss"].item()
        image = task.network(low).detach()
        error = (image - high).numpy()
        squares = np.square(error).mean((1, 2, 3))
        if name == "l1":
            wanted = np.abs(error).mean()
        elif name == "l2":
            wanted = squares.mean()
        elif name == "psnr":
            wanted = np.log10(squares + 1e-5).mean()
        else:
            pairs = [[one.numpy().transpose(1, 2, 0) for one in pair] for pair in zip(image, high)]
            of_luma = np.array([10 ** (-metrics.psnr_y(*pair) / 10) for pair in pairs])
            unlike = np.array([1 - metrics.ssim_y(*pair) for pair in pairs])
            wanted = (np.log10(0.8 * of_luma + 0.2 * squares + 1e-5)
                      + 0.25 * np.log10(unlike + 1e-3)).mean()
        assert found[name] == pytest.approx(wanted, rel=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert photo_loss(image, high, name)[name].item() == found[name]
    assert found["psnr"] < 0 < found["l1"]
