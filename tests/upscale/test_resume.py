"""--resume and its journal: what is skipped, made again or refused."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from bidiff_deploy.upscale.journal import FILE_NAME, Journal
from support.batch_setting import Setting, outputs, three


def skipped(setting: Setting, *arguments: str, code: int = 0) -> list[str]:
    """Names of the outputs that a run with --resume skips."""
    result = setting.run("in", "-o", "out", "--resume", "--json", *arguments, code=code)
    return [Path(entry["output"]).name for entry in json.loads(result.stdout)
            if entry.get("skipped")]


def test_resume_skips_what_exists(setting: Setting) -> None:
    three(setting)
    assert skipped(setting) == []
    before = setting.tree()
    assert skipped(setting) == ["a.png", "b.png", "c.png"] and setting.engine.calls == []
    result = setting.run("in", "-o", "out", "--resume")
    assert result.stdout.splitlines() == [
        *(f"out/{name}.png: skipped, it exists and is whole" for name in "abc"),
        "3 of 3 written to out/ (3 of them before)"]
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
    assert "does not record how it was made" in setting.refused("a.png", "-o", "b.png", "--resume")
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
    (lose_journal, "out/a.png .* does not record how it was made", [])])
def test_resume_refuses_what_it_cannot_skip(setting: Setting, change, words: str,
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
    path.write_bytes(bad + good + b'{"output": "b.p')  # the last line is cut off
    assert skipped(setting) == ["a.png", "b.png", "c.png"]
    (setting.folder / "out" / "b.png").unlink()
    assert skipped(setting) == ["a.png", "c.png"]
    assert skipped(setting) == ["a.png", "b.png", "c.png"]
    path.unlink()
    path.mkdir()
    assert "cannot be read" in setting.refused("in", "-o", "out", "--resume")
    assert "cannot write out/.bidiff-upscale.jsonl" in setting.run(
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
    assert result.stderr == ("error: cannot write out/b.png: the disk is full; free some space or "
                             "choose another place\n")
    monkeypatch.undo()
    setting = Setting(setting.folder, monkeypatch)
    assert skipped(setting) == ["a.png", "c.png"]
