"""Training recipes: those that are read, refused and shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidiff_deploy.errors import UsageError
from bidiff_deploy.training.recipe import Photo, read_recipe, recipe_from_dict
from support.training_setup import TREE, TWO_LEVELS, changed

SHIPPED = Path(__file__).parents[2] / "training"


def test_recipe_round_trip_and_settings(folder):
    recipe = read_recipe(folder / "recipe.yaml", ["run.batch=4", "optimizer.learning_rate=5e-4"])
    assert recipe.run.batch == 4 and recipe.optimizer.learning_rate == 5e-4
    assert recipe.data.train == (Photo("photos"),)
    assert recipe.timesteps == (44, 36) and recipe.start == 44
    assert recipe.schedule.total_steps == 80
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_a_number_of_steps_is_evenly_spaced():
    recipe = recipe_from_dict({**TREE, "steps": 4, "uniform": 1})
    assert recipe.timesteps == (60, 40, 20, 0) and recipe.start is None
    assert {step.origin for step in recipe.steps} == {"photo"}


@pytest.mark.parametrize("tree, says", [
    ({**TREE, "stepz": []}, r"unknown key stepz in recipe; known are .*steps"),
    (changed(run={"bach": 1}), "unknown key bach in run; known are accumulate, batch"),
    (changed(network={"depth": 3}), "unknown network option depth"),
    (changed(network={"channel_mults": [1, 3]}), "must double"),
    (changed(data={"train": [{"path": "a", "boxes": []}]}),
     r"unknown key boxes in data.train\[0\]"),
    (changed(data={"train": [{"box": [0, 0, 1, 1]}]}), r"data.train\[0\] lacks path"),
    (changed(data={"train": []}), "names no photo"),
    (changed(network=TWO_LEVELS, data={"crop": 18}), "data.crop=18 must be a multiple of 4"),
    (changed(data={"train": "photos"}), "data.train must be a list"),
    (changed(run={"batch": 2.5}), "run.batch must be a whole number, not 2.5"),
    (changed(run={"batch": True}), "run.batch must be a whole number, not True"),
    (changed(run={"batch": 0}), "run.batch is 0; it must be a whole number, at least 1"),
    (changed(optimizer={"learning_rate": "fast"}), "learning_rate must be a number, not 'fast'"),
    (changed(optimizer={"ema": 1.0}), r"ema in \[0, 1\)"),
    (changed(optimizer={"schedule": "step"}), "optimizer.schedule must be one of cosine, constant"),
    (changed(optimizer={"milestones": [5, 3]}), "milestones must be ascending"),
    (changed(optimizer={"clip_norm": -1}), "clip_norm >= 0"),
    (changed(run={"precision": "float8"}), "run.precision must be one of float32, bfloat16"),
    (changed(run={"device": "gpu"}), "run.device must be auto, cpu, cuda"),
    (changed(run={"compile": 1}), "run.compile must be true or false, not 1"),
    (changed(run={"keep": 0}), "run.keep is 0; it must be a whole number, at least 1"),
    (changed(run={"seed": -1}), "run.seed is -1; it must be a whole number, from 0"),
    (changed(run={"timeout_minutes": 0}), "timeout_minutes above 0"),
    ({**TREE, "loss": "l3"}, "loss of bi-diffsr must be one of l1, l2"),
    ({"scale": 2, "data": TREE["data"], "model": "bbcu", "network": {}, "loss": "l3"},
     "loss of bbcu must be one of l1, l2, psnr, luma"),
    ({**TREE, "model": "edsr"}, "model must be one of bi-diffsr, bbcu"),
    ({**TREE, "model": "dit-sr", "network": {}}, "model dit-sr is not trained here"),
    ({**TREE, "model": "bbcu", "network": {}}, "steps applies only to diffusion models"),
    ({**TREE, "steps": [{"timestep": 6}, {"timestep": 12}]}, "descending"),
    ({**TREE, "steps": [{"timestep": 200}]}, "timestep is 200; it must be a whole number"),
    ({**TREE, "steps": []}, "empty"),
    ({**TREE, "steps": [{"timestep": 6, "origin": "sample"}]}, "nothing precedes it"),
    ({**TREE, "steps": [{"timestep": 6, "origin": "noise"}]}, "origin must be one of"),
    ({**TREE, "betas": [0.5]}, "betas must be the first and the last"),
    ({**TREE, "betas": [0.5, 0.1]}, "swap them"),
    ({**TREE, "scale": 1}, "scale is 1; it must be a whole number, from 2 to 8"),
    ({key: value for key, value in TREE.items() if key != "steps"}, "lacks steps"),
    ({**TREE, "run": 3}, "run must be a mapping"),
])
def test_recipes_that_are_refused(tree, says):
    with pytest.raises(UsageError, match=says) as caught:
        recipe_from_dict(tree, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text, says", [
    ("a: [", "is not YAML"), ("- 1", "a recipe is a mapping"), ("", "a recipe is a mapping"),
    ("!!python/object/apply:os.getcwd []", "is not YAML"), (b"\xff\xfe\x00", "is not YAML")])
def test_files_that_are_no_recipe(tmp_path, text, says):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=says) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("setting, says", [
    ("run.batch", "write it as key=value"), ("run.batch.size=3", "is not a group"),
    ("run.batch=[", "the value is not YAML"), ("run.steps=3", "unknown key steps in run")])
def test_settings_that_are_refused(folder, setting, says):
    with pytest.raises(UsageError, match=says):
        read_recipe(folder / "recipe.yaml", [setting])


def test_the_shipped_recipe_keeps_the_demo_photos_out():
    recipe = read_recipe(SHIPPED / "demo_x2.yaml")
    trained = {Path(photo.path).name for photo in recipe.data.train}
    shown = {path.name for path in (SHIPPED / "photos").iterdir()}
    assert len(shown) >= 2 and not shown & trained
    assert not shown & {Path(photo.path).name for photo in recipe.data.validate}
    boxes = {photo.path: photo.box for photo in recipe.data.train}
    for photo in recipe.data.validate:  # of a photo that is trained on too, another part
        top, left, height, width = photo.box
        if photo.path in boxes:
            y, x, h, w = boxes[photo.path]
            assert x + w <= left or left + width <= x or y + h <= top or top + height <= y


def test_the_recipe_for_own_photos_has_the_design_of_the_shipped_one():
    own, demo = (read_recipe(SHIPPED / f"{name}_x2.yaml") for name in ("folder", "demo"))
    assert (own.network, own.steps, own.uniform, own.data.sizes) == (
        demo.network, demo.steps, demo.uniform, demo.data.sizes)


def test_a_feed_forward_recipe_has_no_timesteps():
    tree = {key: value for key, value in TREE.items() if key not in ("steps", "network")}
    recipe = recipe_from_dict({**tree, "model": "bbcu", "network": {"channels": 8, "blocks": 1}})
    assert recipe.network.scale == recipe.scale == 2 and recipe.steps == ()
    assert recipe_from_dict(recipe.to_dict()) == recipe
    with pytest.raises(UsageError, match="network.scale=4 must be scale=2"):
        recipe_from_dict({**tree, "model": "bbcu", "network": {"scale": 4}})
