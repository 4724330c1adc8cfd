"""The models that are installed with the package, by name and as files, opened in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import bidiff_deploy
from bidiff_deploy import UsageError, load, load_bundle
from bidiff_deploy.bundle.manifest import manifest_digest, open_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.cli import group
from bidiff_deploy.export.write import bundle_in_memory, choose_timesteps, export_bundle
from bidiff_deploy.models.open import bundle_folder, is_model_file
from bidiff_deploy.models.shipped import SHIPPED, choose

pytest.importorskip("onnxruntime")
MODELS = Path(bidiff_deploy.__file__).parent / "models"
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda one: one.name)
def test_a_model_in_memory_is_the_bundle_that_export_writes(shipped, tmp_path):
    checkpoint = read_checkpoint(MODELS / shipped.file)
    timesteps = choose_timesteps(checkpoint)
    precision = {"precision": shipped.precision}
    export_bundle(checkpoint, tmp_path / "b", timesteps=timesteps, **precision)
    written = open_bundle(tmp_path / "b")
    memory = bundle_in_memory(checkpoint, timesteps=timesteps, **precision)
    assert manifest_digest(written.manifest) == manifest_digest(memory.manifest)
    assert memory.data is not None
    assert memory.data.tobytes() == (tmp_path / "b" / "weights.bin").read_bytes()
    with load(shipped.name, threads=1) as ours, load_bundle(tmp_path / "b", threads=1) as theirs:
        assert ours.scale == shipped.scale
        assert np.array_equal(ours.upscale(PIXELS), theirs.upscale(PIXELS))


@pytest.mark.parametrize("name, precision", [("photo-x2-fast", "float32"),
                                             ("photo-x2", "bfloat16")])
def test_a_name_is_a_bundle_for_commands_that_take_one(tmp_path, name, precision):
    with bundle_folder(name) as folder:
        export = CliRunner().invoke(group, ["export", name, "-o", str(tmp_path / "b")])
        assert export.exit_code == 0, export.output
        assert folder.name == name
        assert {open_bundle(path).precision for path in (folder, tmp_path / "b")} == {precision}
        ours, theirs = (path / "weights.bin" for path in (folder, tmp_path / "b"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert not folder.exists()
    with bundle_folder(str(tmp_path / "b")) as folder:  # a path is itself
        assert folder == tmp_path / "b"


def test_what_load_takes(reference, tmp_path):
    with load(threads=1) as engine:
        assert engine.bundle.path.name == SHIPPED[0].file
    with load(scale=2, threads=1, backend="onnxruntime-stock") as engine:
        assert engine.kernel == "stock"
    bundle, checkpoint = reference.bundle("tiny", [900, 400]), reference.checkpoint("tiny")
    with load(bundle, threads=1) as engine:
        assert engine.timesteps == (900, 400)
    with load(checkpoint, scale=4, threads=1) as engine:
        assert (engine.scale, len(engine.timesteps)) == (4, 50)
    assert is_model_file(str(bundle)) and is_model_file(str(checkpoint))
    assert not is_model_file(str(tmp_path)) and not is_model_file("photo.png")


@pytest.mark.parametrize("arguments, says", [
    ({"model": "photo-x9"}, "installed are photo-x2, "), ({"scale": 3}, "no model of scale 3"),
    ({"model": "photo-x2", "scale": 4}, "upscales by 2, not by 4")])
def test_models_that_are_not_there(arguments, says):
    with pytest.raises(UsageError, match=says):
        load(**arguments)


def test_the_command_lists_every_model():
    text = CliRunner().invoke(group, ["models"]).stdout.splitlines()
    assert len(text) == 1 + len(SHIPPED) and text[1].startswith("photo-x2 ")
    found = json.loads(CliRunner().invoke(group, ["models", "--json"]).stdout)
    assert [one["name"] for one in found] == [one.name for one in SHIPPED]
    assert all(0 < one["bytes"] < 2e6 for one in found) and sum(
        one["bytes"] for one in found) < 8e6


def test_names_are_unique_and_defaults_follow_the_order():
    assert len({one.name for one in SHIPPED}) == len(SHIPPED)
    assert choose() == choose(scale=2) == SHIPPED[0]
    assert choose(scale=4).name == "photo-x4"
