"""Many images: patterns, --resume and its journal, failures in every stage, Ctrl-C, tiles."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_cli_upscale import Setting

from bidiff_deploy import batch, images
from bidiff_deploy.cli._shared import parse_bytes
from bidiff_deploy.errors import UsageError
from bidiff_deploy.images import read_image
from bidiff_deploy.journal import FILE_NAME, Journal


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(tmp_path, monkeypatch)


def outputs(setting: Setting, folder: str = "out") -> list[str]:
    return sorted(name[len(folder) + 1:] for name, content in setting.tree().items()
                  if name.startswith(f"{folder}/") and content is not None)


def lines(text: str) -> list[str]:
    return [line.split(", ")[0] for line in text.splitlines()]


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
    (["in/*.png", "in/?.jpg", "-o", "in/a.png"], "is a file; for folders, patterns"),
    (["in/*", "in/deep/*", "-o", "out"], None),
    (["in/a.*", "-o", "out"], "in/a.jpg and in/a.png would both become out/a.png")])
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


# Resume.

def three(setting: Setting) -> None:
    for index, name in enumerate("abc"):
        setting.photo(f"in/{name}.png", seed=index)


def skipped(setting: Setting, *arguments: str, code: int = 0) -> list[str]:
    """Names of the outputs that a run with --resume skips."""
    result = setting.run("in", "-o", "out", "--resume", "--json", *arguments, code=code)
    return [Path(entry["output"]).name for entry in json.loads(result.stdout)
            if entry.get("skipped")]


def test_resume_skips_what_is_there(setting: Setting) -> None:
    three(setting)
    assert skipped(setting) == []
    before = setting.tree()
    assert skipped(setting) == ["a.png", "b.png", "c.png"] and setting.engine.calls == []
    result = setting.run("in", "-o", "out", "--resume")
    assert result.stdout == "".join(f"out/{name}.png: skipped, it is there and whole\n"
                                    for name in "abc")
    (setting.folder / "out" / "b.png").unlink()
    entries = json.loads(setting.run("in", "-o", "out", "--resume", "--json").stdout)
    assert [entry.get("skipped", False) for entry in entries] == [True, False, True]
    assert entries[0] == {"input": "in/a.png", "output": "out/a.png", "width": 18, "height": 12,
                          "skipped": True}
    assert setting.tree() == before


def test_resume_of_new_inputs_and_subfolders(setting: Setting) -> None:
    setting.photo("in/deep/a.png")
    assert skipped(setting) == []
    setting.photo("in/b.png", seed=3)
    assert skipped(setting) == ["a.png"]
    assert outputs(setting) == ["b.png", "deep/a.png"]


def test_resume_of_a_single_file(setting: Setting) -> None:
    setting.photo("a.png")
    setting.run("a.png", "-o", "b.png")
    assert not (setting.folder / FILE_NAME).exists()
    assert "does not tell how it was made" in setting.refused("a.png", "-o", "b.png", "--resume")
    setting.run("a.png", "-o", "b.png", "--resume", "--overwrite")
    assert "b.png: skipped" in setting.run("a.png", "-o", "b.png", "--resume").stdout


def change_input(setting: Setting) -> tuple[str, ...]:
    setting.photo("in/b.png", seed=9)
    return ()


def change_options(setting: Setting) -> tuple[str, ...]:
    return ("--seed", "3", "--steps", "1")


def change_start(setting: Setting) -> tuple[str, ...]:
    return ("--start", "none")


def change_tile(setting: Setting) -> tuple[str, ...]:
    return ("--tile", "64")


def change_bundle(setting: Setting) -> tuple[str, ...]:
    setting.manifest = {"files": {"weights.bin": {"sha256": "1" * 64}}}
    return ()


def damage_output(setting: Setting) -> tuple[str, ...]:
    path = setting.folder / "out" / "b.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return ()


def cut_output(setting: Setting) -> tuple[str, ...]:
    path = setting.folder / "out" / "b.png"
    path.write_bytes(path.read_bytes()[:-1])
    return ()


def lose_journal(setting: Setting) -> tuple[str, ...]:
    (setting.folder / "out" / FILE_NAME).unlink()
    return ()


@pytest.mark.parametrize(("change", "words", "still"), [
    (change_input, "out/b.png already exists .* in/b.png has changed since", ["a.png", "c.png"]),
    (change_options, "out/a.png .* another --seed, --steps", []),
    (change_start, "out/a.png .* another --start", []),
    (change_tile, "out/a.png .* another --tile", []),
    (change_bundle, "out/a.png .* another bundle", []),
    (damage_output, "out/b.png .* damaged or was changed", ["a.png", "c.png"]),
    (cut_output, "out/b.png .* damaged or was changed", ["a.png", "c.png"]),
    (lose_journal, "out/a.png .* does not tell how it was made", [])])
def test_resume_refuses_what_it_can_not_skip(setting: Setting, change, words: str,
                                             still: list[str]) -> None:
    three(setting)
    setting.run("in", "-o", "out")
    more = change(setting)
    message = setting.refused("in", "-o", "out", "--resume", *more)
    assert re.search(words, message) and "--overwrite" in message
    assert skipped(setting, "--overwrite", *more) == still
    assert skipped(setting, *more) == ["a.png", "b.png", "c.png"]


def test_journals_from_anywhere(setting: Setting) -> None:
    three(setting)
    setting.run("in", "-o", "out")
    path = setting.folder / "out" / FILE_NAME
    good = path.read_bytes()
    bad = b'{"output": "a.png"}\n[]\nnull\n\xff\xfe\n{"output": 3}\n' + b"[" * 5000 + b"\n"
    path.write_bytes(bad + good + b'{"output": "b.p')  # the last one was cut
    assert skipped(setting) == ["a.png", "b.png", "c.png"]
    (setting.folder / "out" / "b.png").unlink()
    assert skipped(setting) == ["a.png", "c.png"]
    assert skipped(setting) == ["a.png", "b.png", "c.png"]
    path.unlink()
    path.mkdir()
    assert "can not be read" in setting.refused("in", "-o", "out", "--resume")
    assert "can not write out/.bidiff-upscale.jsonl" in setting.run(
        "in", "-o", "out", "--overwrite", code=1).stderr


def test_an_output_has_no_name_before_it_is_recorded(setting: Setting, monkeypatch) -> None:
    three(setting)
    seen = []

    def add(self: Journal, target: Path, record: object) -> None:
        seen.append(target.exists())
        original(self, target, record)
        if target.name == "b.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    original = Journal.add
    monkeypatch.setattr(Journal, "add", add)
    result = setting.run("in", "-o", "out", code=1)
    assert seen == [False] * 3 and outputs(setting) == ["a.png", "c.png"]
    assert result.stderr == ("error: can not write out/b.png: the disk is full; free some space or "
                             "choose another place\n")
    monkeypatch.undo()
    setting = Setting(setting.folder, monkeypatch)
    assert skipped(setting) == ["a.png", "c.png"]


# Failures of one image.

def test_a_full_disk_is_of_one_image(setting: Setting, monkeypatch) -> None:
    three(setting)
    encode = images._encode

    def fill(file, image, kind, dropped) -> None:
        encode(file, image, kind, dropped)
        if "b.png" in file.name:
            file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(images, "_encode", fill)
    result = setting.run("in", "-o", "out", code=1)
    assert "error: can not write out/b.png: the disk is full" in result.stderr
    assert outputs(setting) == ["a.png", "c.png"]
    assert not [path for path in (setting.folder / "out").iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize("stage", ["decode", "compute", "encode"])
def test_memory_that_runs_out_is_of_one_image(setting: Setting, monkeypatch, stage: str) -> None:
    three(setting)

    def exhausted(self, job, *rest):
        if job.source.name == "b.png":
            raise MemoryError
        return original(self, job, *rest)

    original = getattr(batch._Stages, stage)
    monkeypatch.setattr(batch._Stages, stage, exhausted)
    result = setting.run("in", "-o", "out", code=1)
    assert result.stderr.startswith("error: there is not enough memory to upscale in/b.png")
    assert outputs(setting) == ["a.png", "c.png"]


def test_too_many_pixels_are_of_one_image(setting: Setting, monkeypatch) -> None:
    three(setting)
    setting.photo("in/b.png", shape=(100, 100, 3))
    monkeypatch.setattr(images.decode_image, "__defaults__", (5000,))
    result = setting.run("in", "-o", "out", code=1)
    assert "error: in/b.png has 100x100 pixels; at most 5000 are read" in result.stderr
    assert outputs(setting) == ["a.png", "c.png"]


def test_an_error_of_no_file_is_raised(setting: Setting, monkeypatch) -> None:
    three(setting)
    monkeypatch.setattr(batch, "write_image", lambda *_, **__: 1 / 0)
    result = setting.run("in", "-o", "out", code=1)
    assert isinstance(result.exception, ZeroDivisionError)
    assert threading.active_count() == 1


def test_warnings(setting: Setting) -> None:
    from test_images import profile

    pixels = np.zeros((4, 5, 1), np.uint8)
    images.write_image("a.png", images.Image(pixels, None, profile(grey=True)))
    data = bytearray(Path("a.png").read_bytes())
    data[data.index(b"iCCP") + 30] ^= 1
    Path("b.png").write_bytes(data)
    result = setting.run("a.png", "b.png", "-o", "out", "--format", "webp")
    assert result.stderr.splitlines() == [
        "warning: a.png: its colour profile is not kept: WebP is always RGB, and the profile is of "
        "grey", "warning: b.png: its iCCP chunk is not kept: it is broken or too large"]
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


def test_progress_tells_image_tile_and_step(setting: Setting, monkeypatch) -> None:
    three(setting)
    setting.run("in/a.png", "-o", "out")
    setting.photo("in/c.png", shape=(60, 20, 3))
    told = []
    monkeypatch.setattr("bidiff_deploy.progress.Progress.update",
                        lambda self, done, label: told.append((done, self.total, label)))
    setting.run("in", "-o", "out", "--resume", "--overwrite", "--tile", "64", "--overlap", "0",
                "--steps", "2", "--start", "none")
    assert told[:6] == [
        (0, 3, "[1/3] a.png"), (0.5, 3, "[1/3] a.png, step 1 of 2"),
        (1.0, 3, "[1/3] a.png, step 2 of 2"), (1, 3, "[2/3] b.png"),
        (1.5, 3, "[2/3] b.png, step 1 of 2"), (2.0, 3, "[2/3] b.png, step 2 of 2")]
    assert told[6:] == [
        (2, 3, "[3/3] c.png"), (2.25, 3, "[3/3] c.png, tile 1 of 2, step 1 of 2"),
        (2.5, 3, "[3/3] c.png, tile 1 of 2, step 2 of 2"),
        (2.75, 3, "[3/3] c.png, tile 2 of 2, step 1 of 2"),
        (3.0, 3, "[3/3] c.png, tile 2 of 2, step 2 of 2")]
    told.clear()
    (setting.folder / "out" / "b.png").unlink()
    setting.run("in", "-o", "out", "--resume", "--tile", "64", "--overlap", "0", "--steps", "2",
                "--start", "none")
    assert told[0] == (0, 1, "[2/3] b.png")  # what is skipped is no work


@pytest.mark.parametrize(("arguments", "words"), [
    (["--tile", "some"], "--tile 'some' must be auto, none or"),
    (["--tile", "8"], "tile is 8; it must be at least 64"),
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
import sys, time
sys.path.insert(0, {tests!r})
sys.path.append({tests!r} + "/..")
import bidiff_deploy
from fake_engine import FakeEngine
from bidiff_deploy.cli import main

class Slow(FakeEngine):
    def _predict(self, *inputs):
        time.sleep(0.03)
        return super()._predict(*inputs)

def load_bundle(path, **options):
    engine = Slow()
    engine.bundle.manifest = {{}}
    return engine

bidiff_deploy.load_bundle = load_bundle
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_clean(tmp_path: Path, monkeypatch, number: int, code: int) -> None:
    setting = Setting(tmp_path, monkeypatch)
    for index in range(30):
        setting.photo(f"in/{index:02d}.png", seed=index, shape=(40, 50, 3))
    command = [sys.executable, "-c", COMMAND.format(tests=str(Path(__file__).parent)), "upscale",
               "bundle", "in", "-o", "out"]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "02.png").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    made = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != FILE_NAME)
    assert 3 <= len(made) < 30 and made == [f"{index:02d}.png" for index in range(len(made))]
    for name in made:
        assert read_image(tmp_path / "out" / name).width == 100
    assert stderr == (f"interrupted: {len(made)} of 30 images are written; --resume goes on with "
                      "the others\n")
    assert [Path(entry["output"]).name for entry in json.loads(stdout)] == made
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True)
    entries = json.loads(done.stdout)
    assert done.returncode == 0 and len(entries) == 30
    assert sum(entry.get("skipped", False) for entry in entries) == len(made)
