"""Without --model, JPEG files get the model that was trained on them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy import load
from bidiff_deploy.cli import group
from bidiff_deploy.images.kinds import is_jpeg_file
from bidiff_deploy.images.read import read_image
from bidiff_deploy.models.shipped import SHIPPED, choose

USUAL, JPEG = "photo-x2", "photo-jpeg-x2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A PNG, a JPEG, and a JPEG that is called PNG."""
    path = tmp_path / "in"
    path.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for name, form in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.png", "JPEG")):
        Image.fromarray(pixels).save(path / name, form)
    return path


def upscaled(folder: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(group, ["upscale", str(folder), "-o", str(folder.parent / "out"),
                                      "--resume", "--json", "--threads", "1", *more])
    return done.exit_code, done.stdout if done.exit_code == 0 else done.output


def test_each_image_gets_the_model_of_its_kind(folder):
    assert upscaled(folder)[0] == 0
    with load(USUAL, threads=1) as usual, load(JPEG, threads=1) as jpeg:
        for name, engine, other in (("a", usual, jpeg), ("b", jpeg, usual), ("c", jpeg, usual)):
            source = next(folder.glob(f"{name}.*"))
            found = read_image(folder.parent / f"out/{name}.png").pixels
            pixels = read_image(source).pixels
            assert np.array_equal(found, engine.upscale(pixels))
            assert not np.array_equal(found, other.upscale(pixels))
    code, text = upscaled(folder)
    assert code == 0 and all(one["skipped"] for one in json.loads(text))
    code, text = upscaled(folder, "--model", USUAL)
    assert code == 1 and "b.png already exists" in text and "made by another bundle" in text
    code, text = upscaled(folder, "--model", USUAL, "--overwrite")
    assert code == 0
    assert [one.get("skipped", False) for one in json.loads(text)] == [True, False, False]


def test_the_choice():
    assert choose(jpeg=True).name == choose(scale=2, jpeg=True).name == JPEG
    assert choose(scale=4, jpeg=True) == choose(scale=4)
    assert choose(USUAL, jpeg=True).name == USUAL
    for one in SHIPPED:
        assert choose(one.name, jpeg=True) == one


def test_what_a_jpeg_is(folder, tmp_path):
    assert [is_jpeg_file(path) for path in sorted(folder.iterdir())] == [False, True, True]
    os.mkfifo(tmp_path / "pipe.jpg")  # to read it would wait
    (tmp_path / "empty.jpg").touch()
    for name in ("pipe.jpg", "empty.jpg", "absent.jpg", "in"):
        assert not is_jpeg_file(tmp_path / name)
