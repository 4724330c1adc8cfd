"""A run of several upscaling factors: each batch draws one, and each is validated."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
import torch

from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import UsageError
from bidiff_deploy.images.matlab_bicubic import make_low
from bidiff_deploy.images.resample import to_condition
from bidiff_deploy.networks.bi_diffsr.scale_norm import scale_embedding
from bidiff_deploy.training.crops import open_crops
from bidiff_deploy.training.draws import drawn_scale
from bidiff_deploy.training.loop import train
from bidiff_deploy.training.recipe import recipe_from_dict
from bidiff_deploy.training.task import pack_run
from bidiff_deploy.training.trainer import Trainer
from support.training_setup import (
    TREE,
    TWO_LEVELS,
    changed,
    silent,
    states_equal,
    train_until,
)

SCALES = [2, 3, 4]


def tree(**groups) -> dict:
    """TREE with three scales, and a photo that has all of them."""
    photo = {"path": "photos/a.png", "box": [0, 0, 24, 24]}
    found = changed(**{
        "network": {"scales": SCALES},
        "data": {"crop": 24, "candidates": 1, "shuffle_colors": False, "train": [photo],
                 "validate": [photo]}, **groups})
    del found["scale"]
    return found


def test_the_recipe():
    recipe = recipe_from_dict(tree())
    assert recipe.scales == (2, 3, 4) and recipe_from_dict(recipe.to_dict()) == recipe
    assert recipe_from_dict(TREE).scales == (2,)


@pytest.mark.parametrize("changes, says", [
    ({"network": {**TWO_LEVELS, "scales": SCALES}, "data": {"crop": 16}},
     "data.crop=16 must be a multiple of 24"),
    ({"scale": 5}, r"network.scales=\[2, 3, 4\] takes the place of scale=5; leave scale out"),
    ({"distill": {"teacher": "t.pth"}}, "no one_step and no distill"),
    ({"data": {"crop": 24, "train": [{"path": "photos", "low": "low"}]}}, "leave low out"),
    ({"network": {"scales": [3, 2]}}, "ascending whole numbers"),
])
def test_recipes_that_are_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        recipe_from_dict({**tree(**{key: value for key, value in changes.items()
                                    if key not in ("scale", "distill")}),
                          **{key: value for key, value in changes.items()
                             if key in ("scale", "distill")}})


def test_a_batch_is_of_its_scale(folder):
    """The whole photo is the crop, so each input is that of the scale, turned and mirrored."""
    recipe = recipe_from_dict(tree())
    crops = open_crops(recipe, folder, say=silent)
    drawn = [drawn_scale(crops.scales, recipe.run.seed, iteration) for iteration in range(60)]
    assert min(Counter(drawn).values()) > 10 and set(drawn) == set(SCALES)
    high = crops.photos.pairs[0].read_high()
    for iteration in range(6):
        photos, inputs = crops.batch_of(iteration, 2 * iteration, 2)
        enlarged = to_condition(make_low(high, drawn[iteration]), drawn[iteration])
        forms = [np.ascontiguousarray(form) for turns in range(4)
                 for turned in [np.rot90(enlarged, turns, (1, 2))]
                 for form in (turned, turned[:, :, ::-1])]
        for found in inputs.numpy():
            assert any(np.allclose(found, form, atol=1e-6) for form in forms)
        assert photos.shape == inputs.shape == (2, 3, 24, 24)


def test_the_network_is_set_to_the_batchs_scale(folder):
    """Gradients of a Linear of zeros are multiples of the embedding, which shows the scale."""
    trainer = Trainer(recipe_from_dict(tree(network={"scales": SCALES, "dropout": 0.0})), folder)
    for iteration in range(3):
        trainer.train_once()
        scale = drawn_scale(trainer.recipe.scales, trainer.recipe.run.seed, iteration)
        linear = trainer.network.get_submodule("encoder.1.scale1")
        row = linear.weight.grad[0] / linear.bias.grad[0]
        assert np.allclose(row, scale_embedding(scale, 8), atol=1e-5)
    scores = trainer.validate()
    assert [score["scale"] for score in scores] == SCALES
    assert len({score["bicubic"] for score in scores}) == 3


def test_a_run_resumes_bit_for_bit_and_packs_all_scales(folder):
    recipe = recipe_from_dict(tree(run={"iterations": 4, "validate_every": 4}))
    whole, part = folder / "whole", folder / "part"
    lines: list[str] = []
    train(recipe, folder, whole, report=lines.append)

    train_until(2, recipe, folder, part)
    train(recipe, folder, part, resume=True, report=silent)
    states = [torch.load(path / "checkpoint.pt", weights_only=True) for path in (whole, part)]
    for state in states:
        state.pop("seconds")
    assert states_equal(*states)
    rows = list(csv.DictReader((whole / "log.csv").open()))
    assert [row["iteration"] for row in rows] == ["4"]
    for row in rows:
        each = [float(row[f"psnr_y_x{scale}"]) for scale in SCALES]
        assert np.mean(each) == pytest.approx(float(row["psnr_y"]), abs=2e-3)
    assert any(", x3 " in line for line in lines if "PSNR-Y" in line)
    pack_run(whole / "checkpoint.pt", recipe, folder / "three.safetensors")
    for path in (folder / "three.safetensors", whole / "checkpoint.pt"):
        found = read_checkpoint(path)
        assert found.scale is None and found.config.scales == (2, 3, 4)
        assert found.sampling["start"] == 44
    assert read_checkpoint(whole / "checkpoint.pt", scale=3).scale == 3
