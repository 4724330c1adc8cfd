"""Many images: patterns, failures in every stage, Ctrl-C, tiles."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from bidiff_deploy.cli._shared import parse_bytes
from bidiff_deploy.errors import UsageError
from bidiff_deploy.images import write
from bidiff_deploy.images.image import Image
from bidiff_deploy.images.read import read_image
from bidiff_deploy.upscale import batch
from bidiff_deploy.upscale.journal import FILE_NAME
from support.batch_setting import Setting, outputs, three
from support.forked import Forked
from support.image_samples import profile
from support.waiting import wait_until

TREE = ("in/a.png", "in/b.jpg", "in/deep/c.png", "in/deep/down/d.tif", "in/other/e.png",
        "in/.hidden/f.png", "in/.g.png")


@pytest.mark.parametrize(("pattern", "found"), [
    ("in/*.png", ["a.png"]), ("in/*", ["a.png", "b.png", "deep/c.png", "deep/down/d.png",
                                       "other/e.png"]),
    ("in/**/*.png", ["a.png", "deep/c.png", "other/e.png"]),
    ("in/**", ["a.png", "b.png", "deep/c.png", "deep/down/d.png", "other/e.png"]),
    ("in/d*", ["deep/c.png", "deep/down/d.png"]), ("in/[ab].*", ["a.png", "b.png"]),
    ("in/deep/*.png", ["c.png"]), ("in/*/?.png", ["deep/c.png", "other/e.png"]),
    ("./in/dee[p]/*", ["deep/c.png", "deep/down/d.png"]), ("*/a.png", ["in/a.png"])])
def test_patterns(setting: Setting, pattern: str, found: list[str]) -> None:
    for name in TREE:
        setting.photo(name)
    (setting.folder / "in" / "notes.txt").write_text("no image")
    for given in (pattern, str(setting.folder / pattern)):
        setting.run(given, "-o", "out", "--overwrite")
        assert outputs(setting) == found


def test_a_pattern_leaves_outputs_alone(setting: Setting) -> None:
    for name in TREE:
        setting.photo(name)
    for _ in range(2):
        setting.run("in/**/*.png", "in/*", "-o", "in/big", "--overwrite")
    assert outputs(setting, "in/big") == ["a.png", "b.png", "deep/c.png", "deep/down/d.png",
                                          "other/e.png"]


def test_a_file_may_have_brackets(setting: Setting) -> None:
    setting.photo("a[1].png")
    setting.photo("a1.png")
    setting.run("a[1].png", "-o", "b.png")
    assert set(setting.tree()) == {"a[1].png", "a1.png", "b.png"}


@pytest.mark.parametrize(("arguments", "words"), [
    (["in/*.webp", "-o", "out"], r"pattern in/\*.webp matches no image"),
    (["in/*.txt", "-o", "out"], r"pattern in/\*.txt matches no image"),
    (["none/**", "-o", "out"], r"pattern none/\*\* matches no image"),
    (["in/*.png", "in/?.jpg", "-o", "in/a.png"], "is a file; give a folder for folders, patterns"),
    (["in/*", "in/deep/*", "-o", "out"], None)])
def test_patterns_that_are_refused(setting: Setting, arguments: list[str],
                                   words: str | None) -> None:
    for name in (*TREE, "in/a.jpg"):
        setting.photo(name)
    (setting.folder / "in" / "notes.txt").write_text("no image")
    if words is None:
        (setting.folder / "in" / "a.jpg").unlink()
        setting.run(*arguments)
        assert "c.png" in outputs(setting) and "deep/c.png" in outputs(setting)
    else:
        assert re.search(words, setting.refused(*arguments))


def test_the_report_has_the_order_of_the_inputs(setting: Setting) -> None:
    for name in ("z.png", "in/b.png", "in/a.png"):
        setting.photo(name)
    (setting.folder / "bad.png").write_text("no image")
    result = setting.run("z.png", "bad.png", "in/*", "-o", "out", "--json", code=1)
    assert [entry["input"] for entry in json.loads(result.stdout)] == [
        "z.png", "bad.png", "in/a.png", "in/b.png"]


# Failures of one image.

def test_a_full_disk_is_of_one_image(setting: Setting, monkeypatch) -> None:
    three(setting)
    encode = write._encode

    def fill(file, *arguments) -> None:
        encode(file, *arguments)
        if "b.png" in file.name:
            file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write, "_encode", fill)
    result = setting.run("in", "-o", "out", code=1)
    assert "error: cannot write out/b.png: the disk is full" in result.stderr
    assert outputs(setting) == ["a.png", "c.png"]
    assert not [path for path in (setting.folder / "out").iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize("stage", ["_decode", "_compute", "_encode"])
def test_memory_that_runs_out_is_of_one_image(setting: Setting, monkeypatch, stage: str) -> None:
    three(setting)

    def exhausted(self, job, *rest):
        if job.source.name == "b.png":
            raise MemoryError
        return original(self, job, *rest)

    original = getattr(batch.Batch, stage)
    monkeypatch.setattr(batch.Batch, stage, exhausted)
    result = setting.run("in", "-o", "out", code=1)
    assert result.stderr.startswith("error: there is not enough memory to upscale in/b.png")
    assert outputs(setting) == ["a.png", "c.png"]


def test_too_many_pixels_are_of_one_image(setting: Setting) -> None:
    three(setting)
    setting.photo("in/b.png", shape=(100, 100, 3))
    result = setting.run("in", "-o", "out", "--max-pixels", "5001", code=1)
    assert "error: in/b.png: it has 100x100 pixels; at most 5001 are read" in result.stderr
    assert outputs(setting) == ["a.png", "c.png"]
    setting.run("in/b.png", "-o", "out", "--max-pixels", "10000")


def test_an_error_of_no_file_is_raised(setting: Setting, monkeypatch) -> None:
    three(setting)
    monkeypatch.setattr(batch, "write_image", lambda *_, **__: 1 / 0)
    result = setting.run("in", "-o", "out", code=1)
    assert isinstance(result.exception, ZeroDivisionError)
    assert threading.active_count() == 1


def test_warnings(setting: Setting) -> None:
    pixels = np.zeros((4, 5, 1), np.uint8)
    write.write_image("a.png", Image(pixels, None, profile(grey=True)))
    data = bytearray(Path("a.png").read_bytes())
    data[data.index(b"iCCP") + 30] ^= 1
    Path("b.png").write_bytes(data)
    result = setting.run("a.png", "b.png", "-o", "out", "--format", "webp")
    assert result.stderr.splitlines() == [
        "warning: a.png: its colour profile is not kept: WebP is always RGB, but the profile is "
        "for grey", "warning: b.png: its iCCP chunk is not kept: it is broken or too large"]
    result = setting.run("b.png", "-o", "c.png", "--json")
    assert json.loads(result.stdout)[0]["warnings"] == [
        "its iCCP chunk is not kept: it is broken or too large"]


# Tiles.

def test_tiles_and_their_plan(setting: Setting) -> None:
    setting.photo("a.png", shape=(60, 90, 3))
    setting.run("a.png", "-o", "whole.png")
    shapes = {shape for _, shape in setting.engine.calls}
    assert shapes == {(1, 3, 120, 184)}
    result = setting.run("a.png", "-o", "tiled.png", "--tile", "64", "--overlap", "16", "--json")
    shapes = {shape for _, shape in setting.engine.calls}
    assert shapes == {(1, 3, 64, 64)}
    plan = json.loads(result.stdout)[0]["plan"]
    assert plan["tiles"] == plan["rows"] * plan["columns"] > 4 and plan["overlap"] == 16
    assert len(setting.engine.calls) == 3 * plan["tiles"]
    difference = read_image("tiled.png").pixels.astype(int) - read_image("whole.png").pixels
    assert abs(difference).max() <= 1
    setting.run("a.png", "-o", "none.png", "--tile", "none")
    assert {shape for _, shape in setting.engine.calls} == {(1, 3, 120, 184)}


def test_progress_shows_image_tile_and_step(setting: Setting, monkeypatch) -> None:
    three(setting)
    setting.run("in/a.png", "-o", "out")
    setting.photo("in/c.png", shape=(60, 20, 3))
    updates = []
    monkeypatch.setattr("bidiff_deploy.progress.Progress.update",
                        lambda self, done, label: updates.append((done, self.total, label)))
    setting.run("in", "-o", "out", "--resume", "--overwrite", "--tile", "64", "--overlap", "0",
                "--steps", "2", "--start", "none")
    assert updates[:6] == [
        (0, 3, "[1/3] a.png"), (0.5, 3, "[1/3] a.png, step 1 of 2"),
        (1.0, 3, "[1/3] a.png, step 2 of 2"), (1, 3, "[2/3] b.png"),
        (1.5, 3, "[2/3] b.png, step 1 of 2"), (2.0, 3, "[2/3] b.png, step 2 of 2")]
    assert updates[6:] == [
        (2, 3, "[3/3] c.png"), (2.25, 3, "[3/3] c.png, tile 1 of 2, step 1 of 2"),
        (2.5, 3, "[3/3] c.png, tile 1 of 2, step 2 of 2"),
        (2.75, 3, "[3/3] c.png, tile 2 of 2, step 1 of 2"),
        (3.0, 3, "[3/3] c.png, tile 2 of 2, step 2 of 2")]
    updates.clear()
    (setting.folder / "out" / "b.png").unlink()
    setting.run("in", "-o", "out", "--resume", "--tile", "64", "--overlap", "0", "--steps", "2",
                "--start", "none")
    assert updates[0] == (0, 1, "[2/3] b.png")  # skipped jobs do not count


@pytest.mark.parametrize(("arguments", "words"), [
    (["--tile", "some"], "--tile 'some' must be auto, none or"),
    (["--tile", "8"], "tile is 8; it must be a whole number of pixels, at least 64"),
    (["--tile", "64", "--overlap", "40"], "overlap 40 is more than half of tile 64"),
    (["--memory", "much"], "--memory 'much' must be"), (["--memory", "0"], "--memory '0' must be"),
    (["--memory", "1k"], "memory 1 MiB is too little")])
def test_tile_options_that_are_refused(setting: Setting, arguments: list[str],
                                       words: str) -> None:
    setting.photo("a.png")
    assert words in setting.refused("a.png", "-o", "b.png", *arguments)


@pytest.mark.parametrize(("text", "expected"), [
    ("1000000", 10**6), ("2GB", 2 * 10**9), ("2g", 2 * 10**9), ("1.5GiB", 3 << 29),
    ("512MiB", 1 << 29), ("512 Mi", 1 << 29), ("800k", 800_000), ("800kB", 800_000),
    ("4KiB", 4096), ("3B", 3), ("1T", 10**12)])
def test_memory_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "2 XB", "1.GB", "0k", "2iB", "١k"])
def test_memory_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_bytes(text)


# Ctrl-C.

COMMAND = """
import os, sys, time
sys.path.insert(0, {tests!r})
sys.path.append({tests!r} + "/..")
import bidiff_deploy
from support.fake_engine import FakeEngine
from bidiff_deploy.cli import main

class Slow(FakeEngine):
    def _predict(self, *inputs):
        if "HOLD" in os.environ and os.path.exists("out/02.png"):
            time.sleep(3600)
        return super()._predict(*inputs)

def load(model, **options):
    engine = Slow()
    engine.bundle.manifest = {{}}
    return engine

bidiff_deploy.load = load
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_clean(tmp_path: Path, monkeypatch, number: int, code: int) -> None:
    setting = Setting(tmp_path, monkeypatch)
    for index in range(30):
        setting.photo(f"in/{index:02d}.png", seed=index, shape=(40, 50, 3))
    command = [COMMAND.format(tests=str(Path(__file__).parents[1])),
               "upscale", "--model", "bundle", "in", "-o", "out"]
    process = Forked(*command, "--json", environment={"HOLD": "in the middle"})
    wait_until(lambda: (tmp_path / "out" / "02.png").exists() or process.poll() is not None)
    process.send_signal(number)
    ended = process.done()
    assert ended.returncode == code
    made = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != FILE_NAME)
    assert 3 <= len(made) < 30 and made == [f"{index:02d}.png" for index in range(len(made))]
    for name in made:
        assert read_image(tmp_path / "out" / name).width == 100
    assert ended.stderr == (f"interrupted: {len(made)} of 30 images are written; --resume "
                            "continues with the others\n")
    assert [Path(entry["output"]).name for entry in json.loads(ended.stdout)] == made
    done = Forked(*command, "--resume", "--json").done()
    entries = json.loads(done.stdout)
    assert done.returncode == 0 and len(entries) == 30
    assert sum(entry.get("skipped", False) for entry in entries) == len(made)
