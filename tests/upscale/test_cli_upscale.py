"""``bidiff-deploy upscale`` with files and folders, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from bidiff_deploy.cli import group
from bidiff_deploy.cli._upscale_screen import Screen
from bidiff_deploy.images.read import read_image
from bidiff_deploy.images.resample import to_condition
from bidiff_deploy.upscale import journal
from bidiff_deploy.upscale.jobs import Job
from support.batch_setting import Setting
from support.fake_engine import FakeEngine


def expected(path: Path) -> np.ndarray:
    image = read_image(path)
    top = np.iinfo(image.pixels.dtype).max
    return np.clip(to_condition(image.pixels, 2), 0, 1).transpose(1, 2, 0) * top


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_file_to_a_file(setting: Setting, dtype) -> None:
    source = setting.photo("a.png", dtype=dtype)
    result = setting.run("a.png", "-o", "big.png", "--threads", "2", "--seed", "5")
    found = read_image("big.png")
    assert found.pixels.dtype == dtype
    assert np.abs(found.pixels - expected(source)).max() <= 0.5 + 1e-5 * np.iinfo(dtype).max
    assert setting.opened == [("bundle", {"scale": None, "threads": 2, "backend": "onnxruntime",
                                          "device": None})]
    assert setting.engine.closed and [t for t, _ in setting.engine.calls] == [120, 60, 0]
    assert result.stdout.startswith("big.png: 18x12, ") and result.stderr == ""


def test_a_file_to_a_folder(setting: Setting) -> None:
    setting.photo("in/a.b.jpg")
    setting.run("in/a.b.jpg", "-o", "out")
    setting.run("in/a.b.jpg", "-o", "out/", "--format", "same")
    assert set(setting.tree()) == {"in", "in/a.b.jpg", "out", "out/a.b.png", "out/a.b.jpg"}


def test_a_folder_keeps_its_tree(setting: Setting) -> None:
    for name in ("in/a.jpg", "in/deep/b.PNG", "in/deep/deeper/a.tif", "in/.hidden/c.png",
                 "in/.d.png"):
        setting.photo(name)
    (setting.folder / "in" / "notes.txt").write_text("no image")
    setting.photo("alone.webp")
    setting.run("in", "alone.webp", "-o", "out")
    out = setting.folder / "out"
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        journal.FILE_NAME, "a.png", "alone.png", "deep/b.png", "deep/deeper/a.png"]


def test_an_output_folder_inside_the_input_is_not_an_input(setting: Setting) -> None:
    setting.photo("in/a.png")
    setting.run("in", "-o", "in/big")
    setting.run("in", "-o", "in/big", "--overwrite")
    assert set(setting.tree()) == {"in", "in/a.png", "in/big", "in/big/a.png"}


def test_a_result_depends_on_nothing_else(setting: Setting) -> None:
    class Noisy(FakeEngine):  # does not remove all noise, so that it shows in the result
        def _predict(self, noisy: np.ndarray, *rest) -> np.ndarray:
            return 0.5 * super()._predict(noisy, *rest)

    setting.make = Noisy
    for name in "ab":
        setting.photo(f"in/{name}.png", seed=ord(name))
    for arguments in (("in", "-o", "both"), ("in/b.png", "-o", "alone/"),
                      ("in/b.png", "-o", "other", "--seed", "1")):
        setting.run(*arguments)
    tree = setting.tree()
    assert tree["both/b.png"] == tree["alone/b.png"] != tree["other/b.png"]


def test_json(setting: Setting) -> None:
    setting.photo("in/a.png")
    setting.photo("in/c.png")
    (setting.folder / "in" / "b.png").write_text("no image")
    result = setting.run("in", "-o", "out", "--json", "--seed", "7", code=1)
    first, second, third = json.loads(result.stdout)
    assert first.pop("seconds") >= 0 and first.pop("plan")["tiles"] == 1
    assert first == {"input": "in/a.png", "output": "out/a.png", "width": 18, "height": 12,
                     "seed": 7}
    assert second["input"] == "in/b.png" and "in/b.png is a text file" in second["error"]
    assert third["output"] == "out/c.png"


def test_bad_files_are_reported_at_the_end_and_the_others_written(setting: Setting) -> None:
    for name in ("a", "d"):
        setting.photo(f"in/{name}.png")
    (setting.folder / "in" / "b.png").write_bytes(b"")
    (setting.folder / "in" / "c.png").write_text("no image")
    result = setting.run("in", "-o", "out", code=1)
    lines = result.stderr.splitlines()
    assert len(lines) == 2 and lines[0].startswith("error: in/b.png is empty")
    assert lines[1].startswith("error: in/c.png is a text file")
    assert setting.tree().keys() - {"in", "out", *(f"in/{x}.png" for x in "abcd")} == {
        "out/a.png", "out/d.png"}


def test_an_engine_that_fails_is_reported(setting: Setting) -> None:
    class Exhausted(FakeEngine):
        def _predict(self, *_: object) -> np.ndarray:
            raise MemoryError

    setting.make = Exhausted
    setting.photo("a.png")
    assert "not enough memory to upscale a.png" in setting.refused("a.png", "-o", "b.png")


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b"text", "is a text file")])
def test_a_file_that_is_no_image(setting: Setting, content: bytes, words: str) -> None:
    (setting.folder / "a.png").write_bytes(content)
    assert words in setting.refused("a.png", "-o", "b.png")
    assert words in setting.refused("a.png", "-o", "folder")


@pytest.mark.parametrize(("arguments", "words"), [
    (["missing.png", "-o", "b.png"], "missing.png does not exist"),
    (["in", "missing", "-o", "out"], "missing does not exist"),
    (["a.png", "-o", "b.gif"], "is not supported; choose one of .png"),
    (["a.png", "-o", "none/b.png"], "folder does not exist"),
    (["a.png", "-o", "c.png"], "c.png already exists.*--overwrite"),
    (["in", "-o", "taken"], "taken/a.png already exists"),
    (["in", "-o", "c.png"], "c.png is a file; give a folder"),
    (["a.png", "in", "-o", "c.png"], "c.png is a file"),
    (["a.png", "-o", "c.png/out/"], "not a folder"),
    (["a.png", "-o", "a.png", "--overwrite"], "one of the inputs"),
    (["a.png", "c.png", "-o", ".", "--overwrite"], "one of the inputs"),
    (["a.png", "-o", "-"], r"- \(standard input or output\) is not supported; .* ./- for"),
    (["-", "-o", "b.png"], r"- \(standard input or output\) is not supported"),
    (["empty", "-o", "out"], "folder empty has no images"),
    (["a.png", "-o", "b.png", "--steps", "9"], "there are 3 timesteps at or below start 150"),
    (["a.png", "-o", "b.png", "--steps", "9", "--start", "none"], "there are 4"),
    (["a.png", "-o", "b.png", "--start", "soon"], "--start 'soon' must be"),
    (["a.png", "-o", "b.png", "--start", "-4"], "start is -4; it must be"),
    (["a.png", "-o", "b.png", "--seed", "-1"], "seed is -1"),
    (["clear.png", "-o", "b.jpg"], "the image is transparent, which JPEG cannot")])
def test_refused_with_nothing_left_behind(setting: Setting, arguments: list[str],
                                          words: str) -> None:
    for name in ("a.png", "c.png", "in/a.png", "taken/a.png", "twins/x.jpg", "twins/x.png"):
        setting.photo(name, seed=len(name))
    setting.photo("clear.png", shape=(4, 4, 4))
    (setting.folder / "empty").mkdir()
    assert re.search(words, setting.refused(*arguments))


def test_most_refusals_come_before_the_bundle_is_opened(setting: Setting) -> None:
    setting.photo("a.png")
    setting.photo("b.png")
    setting.refused("a.png", "-o", "b.png")
    assert setting.opened == []


def test_overwrite_replaces(setting: Setting) -> None:
    setting.photo("a.png")
    setting.photo("b.png", shape=(1, 1, 3))
    setting.run("a.png", "-o", "b.png", "--overwrite")
    assert read_image("b.png").width == 18


def test_a_file_given_twice_is_done_once(setting: Setting) -> None:
    setting.photo("in/a.png")
    result = setting.run("in", "in/a.png", "-o", "out")
    assert result.stdout.splitlines()[1:] == ["1 of 1 written to out/"]


def test_start_and_steps_reach_the_engine(setting: Setting) -> None:
    setting.photo("a.png")
    setting.run("a.png", "-o", "b.png", "--start", "none", "--steps", "2")
    assert [t for t, _ in setting.engine.calls] == [180, 0]
    setting.make = FakeEngine
    setting.run("a.png", "-o", "c.png", "--start", "60")
    assert [t for t, _ in setting.engine.calls] == [60, 0]


def test_quiet_prints_nothing(setting: Setting) -> None:
    setting.photo("a.png")
    assert setting.run("a.png", "-o", "b.png", "--quiet").output == ""


@pytest.mark.parametrize("fuses_loop, on_terminal, shown, expected", [
    (False, True, True, ["on_step"]), (False, False, True, ["on_step"]),
    (True, True, True, ["on_step"]), (True, False, True, ["on_tile"]),
    (True, False, False, []), (False, False, False, [])])
def test_who_listens_to_steps(fuses_loop, on_terminal, shown, expected) -> None:
    """Steps are reported to a terminal only, if that makes a loop slower; never with --quiet."""
    updates: list[tuple] = []
    progress = SimpleNamespace(shown=shown, on_terminal=on_terminal,
                               update=lambda *values: updates.append(values))
    jobs = [Job(index, Path(f"{index}.png"), Path("out")) for index in range(3)]
    screen = Screen(quiet=False, as_json=False)
    screen.follow(progress, jobs, len(jobs), fuses_loop)
    listeners = screen.begin(jobs[2], SimpleNamespace(count=4))
    assert list(listeners) == expected
    for listen in listeners.values():
        listen(1, 4)
    assert [round(done, 2) for done, _ in updates] == [2] + [2.25] * len(expected)


def test_an_unwritable_folder_is_refused(setting: Setting, monkeypatch) -> None:
    setting.photo("a.png")

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refuse)
    assert "permission denied" in setting.refused("a.png", "-o", "b.png")
    assert "permission denied" in setting.refused("a.png", "-o", "new/folder")


def test_the_help_names_every_option() -> None:
    result = CliRunner().invoke(group, ["upscale", "--help"])
    assert result.exit_code == 0
    for option in ("--output", "--seed", "--steps", "--start", "--threads", "--backend",
                   "--format", "--overwrite", "--resume", "--tile", "--memory", "--overlap",
                   "--quiet", "--json"):
        assert option in result.output
