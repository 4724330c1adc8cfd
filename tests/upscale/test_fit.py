"""``upscale --fit``: the longest side, reduced from what the model's scale gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.reduce import reduced
from support.batch_setting import Setting


def results(setting: Setting, *arguments: str, code: int = 0) -> list[dict]:
    return json.loads(setting.run(*arguments, "--json", code=code).stdout)


def test_enlarged_and_then_reduced(setting: Setting) -> None:
    setting.photo("a.png", shape=(20, 30, 3))
    (result,) = results(setting, "a.png", "-o", "b.png", "--fit", "48")
    assert (result["width"], result["height"]) == (48, 32)
    assert result["plan"]["tiles"] == 1 and "warnings" not in result
    setting.run("a.png", "-o", "whole.png")
    wanted = reduced(read_image("whole.png"), 48, 32)
    assert (read_image("b.png").pixels == wanted.pixels).all()
    assert "c.png: 32x48, " in setting.run(
        setting.photo("tall.png", shape=(30, 20, 3)), "-o", "c.png", "--fit", "48").stdout


@pytest.mark.parametrize(("longest", "words"), [
    (30, "it is not upscaled: its longest side has 30 pixels already"),
    (24, "it is not upscaled: its longest side has 30 pixels already and is reduced to 24")])
def test_a_photo_that_is_long_enough(setting: Setting, longest: int, words: str) -> None:
    setting.photo("a.png", shape=(20, 30, 3))
    result = setting.run("a.png", "-o", "b.png", "--fit", str(longest))
    assert result.stderr == f"warning: a.png: {words}\n" and setting.engine.calls == []
    found = read_image("b.png")
    assert max(found.width, found.height) == longest
    if longest == 30:
        assert (found.pixels == read_image("a.png").pixels).all()


def test_a_scale_that_does_not_reach(setting: Setting) -> None:
    setting.photo("a.png", shape=(20, 30, 3))
    (result,) = results(setting, "a.png", "-o", "b.png", "--fit", "61")
    assert (result["width"], result["height"]) == (60, 40)
    (warning,) = result["warnings"]
    assert "becomes 60 pixels, not 61: the model upscales by 2" in warning
    assert read_image("b.png").width == 60


def test_depth_alpha_and_metadata(setting: Setting) -> None:
    setting.photo("deep.png", dtype=np.uint16, shape=(20, 30, 4))
    setting.run("deep.png", "-o", "b.png", "--fit", "48")
    found = read_image("b.png")
    assert (found.bits, found.width) == (16, 48) and found.alpha is not None
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = 30, 20  # dimensions
    Image.new("RGB", (30, 20)).save("a.jpg", exif=exif, dpi=(240, 240))
    setting.run("a.jpg", "-o", "c.jpg", "--fit", "48")
    with Image.open("c.jpg") as written:
        photo = written.getexif().get_ifd(0x8769)
        assert (photo[0xA002], photo[0xA003]) == (48, 32) == written.size
        assert written.info["dpi"] == (240, 240)


def test_a_format_is_asked_for_the_size_that_is_written(setting: Setting) -> None:
    setting.photo("a.png", shape=(2, 9000, 3))  # twice that is more than WebP can store
    assert "18000x4 pixels" in setting.run("a.png", "-o", "b.webp", code=1).stderr
    setting.run("a.png", "-o", "b.webp", "--fit", "16000")
    assert read_image("b.webp").width == 16000


def test_names_of_outputs_and_resuming(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bidiff_deploy.models.open.scale_of", lambda *_: 2)
    setting.photo("in/a.png"), setting.photo("b.png")
    arguments = ("in", "b.png", "--fit", "16")
    outputs = [entry["output"] for entry in results(setting, *arguments)]
    assert outputs == ["in_fit16/a.png", "b_fit16.png"]
    again = setting.run(*arguments, code=1).stderr
    assert "a.png already exists" in again and again.endswith("skip what is done with --resume\n")
    assert [entry["skipped"] for entry in results(setting, *arguments, "--resume")] == [True] * 2
    setting.run("in", "-o", "out", "--fit", "16")
    assert "another --fit" in setting.run("in", "-o", "out", "--resume", code=1).stderr


@pytest.mark.parametrize("value", ["15", "65536", "x", "0"])
def test_sizes_that_are_refused(setting: Setting, value: str) -> None:
    assert "--fit" in setting.run(setting.photo("a.png"), "--fit", value, code=2).stderr
