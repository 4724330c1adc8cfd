"""--resume and its journal: what is skipped, made again or refused."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from bidiff_deploy.cli._upscale_screen import Screen
from bidiff_deploy.upscale import batch, jobs, journal
from bidiff_deploy.upscale.jobs import Job
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
    for content in (b"{}\n" * 2000, b"\n" * 2000, b"[" * (100 << 20)):
        path.write_bytes(content)
        refused = setting.refused("in", "-o", "out", "--resume")
        assert "is not a journal; remove it" in refused
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


# The journal itself.

@pytest.mark.parametrize("exists", [True, False])
def test_a_journal_that_is_a_link_is_left_alone(setting: Setting, exists: bool) -> None:
    three(setting)
    victim = setting.folder / "victim"
    if exists:
        victim.write_text("precious")
    (setting.folder / "out").mkdir()
    (setting.folder / "out" / FILE_NAME).symlink_to(victim)
    before = setting.tree()
    result = setting.run("in", "-o", "out", code=1)
    assert "cannot write out/.bidiff-upscale.jsonl: it is a symbolic link" in result.stderr
    assert setting.tree() == before and setting.engine.calls == []
    assert "symbolic link" in setting.run("in", "-o", "out", "--resume", code=1).stderr
    assert setting.tree() == before and setting.engine.calls == []


@pytest.mark.parametrize(("change", "words"), [
    (lambda path: path.chmod(0o666), "other users may write it; remove it, or run chmod go-w"),
    (lambda path: os.chown(path, 12345, -1), r"belongs to another user \(uid 12345\)")])
def test_a_journal_that_another_user_could_have_written(setting: Setting, change,
                                                        words: str) -> None:
    three(setting)
    setting.run("in", "-o", "out")
    (setting.folder / "out").chmod(0o755)
    try:
        change(setting.folder / "out" / FILE_NAME)
    except PermissionError:
        pytest.skip("only root gives files away")
    assert re.search(words, setting.refused("in", "-o", "out", "--resume"))


# Another run in the same folder.

class OtherRun:
    """Has claimed out/b.png; everything that it would write is prepared."""

    def __init__(self, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
        three(setting)
        setting.run("in", "-o", "out")
        self.folder = setting.folder / "out"
        self.made = {path.name: path.read_bytes() for path in self.folder.glob("*.png")}
        for name in self.made:
            (self.folder / name).unlink()
        self.target = Path("out/b.png")
        self.journal = Journal("out")
        assert self.journal.claim(self.target)
        self.waits: list[Path] = []
        monkeypatch.setattr(Screen, "wait", lambda _, job: self.wait(job))

    def wait(self, job: Job) -> None:
        """Called when the run under test has nothing left but b.png."""
        self.waits.append(job.target)
        assert sorted(path.name for path in self.folder.glob("*.png")) == ["a.png", "c.png"]
        self.end()

    def end(self) -> None:
        (self.folder / "b.png").write_bytes(self.made["b.png"])
        self.journal.release(self.target)

    def check(self) -> None:
        assert {path.name: path.read_bytes() for path in self.folder.glob("*.png")} == self.made


def entries(setting: Setting, *arguments: str, code: int = 0) -> list[tuple[str, bool]]:
    result = setting.run("in", "-o", "out", "--json", *arguments, code=code)
    return [(Path(entry["input"]).name, entry.get("skipped", False))
            for entry in json.loads(result.stdout)]


def test_what_another_run_is_writing_comes_last_and_is_skipped(setting, monkeypatch) -> None:
    other = OtherRun(setting, monkeypatch)
    assert entries(setting, "--resume") == [("a.png", False), ("c.png", False), ("b.png", True)]
    assert other.waits == [other.target] and len(setting.engine.calls) == 2 * 3
    other.check()


def test_what_another_run_did_not_write_is_written(setting, monkeypatch) -> None:
    other = OtherRun(setting, monkeypatch)
    monkeypatch.setattr(other, "end", other.journal.close)  # it was killed
    assert entries(setting, "--resume") == [("a.png", False), ("c.png", False), ("b.png", False)]
    other.check()


def test_without_resume_the_second_run_does_not_replace(setting, monkeypatch) -> None:
    other = OtherRun(setting, monkeypatch)
    result = setting.run("in", "-o", "out", "--seed", "8", code=1)
    assert result.stderr.splitlines()[-1].startswith("error: out/b.png already exists")
    assert (other.folder / "b.png").read_bytes() == other.made["b.png"]
    assert len(setting.engine.calls) == 2 * 3


def test_with_overwrite_the_last_run_wins_after_the_first(setting, monkeypatch) -> None:
    other = OtherRun(setting, monkeypatch)
    assert entries(setting, "--overwrite") == [("a.png", False), ("c.png", False),
                                               ("b.png", False)]
    other.check()


@pytest.mark.parametrize(("stage", "locks"), [("_decode", True), ("_compute", False)])
def test_an_output_that_appears_meanwhile_is_skipped(setting, monkeypatch, stage: str,
                                                     locks: bool) -> None:
    """Written by a run that was quicker, and by one that no lock held off."""
    other = OtherRun(setting, monkeypatch)
    if not locks:
        monkeypatch.setattr(journal, "lock_range", lambda *_, **__: True)
    original = getattr(batch.Batch, stage)

    def late(self, job: Job, *rest):
        if job.target == other.target:
            other.end()
        return original(self, job, *rest)

    monkeypatch.setattr(batch.Batch, stage, late)
    assert entries(setting, "--resume") == [("a.png", False), ("b.png", True), ("c.png", False)]
    other.check()


def test_the_folder_of_another_run_appears_while_it_is_looked_for(setting, monkeypatch) -> None:
    three(setting)
    check = jobs.check_target

    def late(target: Path, *rest, **options):
        if options.get("directory"):
            target.mkdir()
        return check(target, *rest, **options)

    monkeypatch.setattr(jobs, "check_target", late)
    assert [name for name, _ in entries(setting, "--resume")] == ["a.png", "b.png", "c.png"]


def test_claims_end_with_a_failure(setting: Setting, monkeypatch) -> None:
    three(setting)
    (setting.folder / "in" / "b.png").write_text("no image")
    setting.run("in", "-o", "out", code=1)
    again = Journal("out")
    assert all(again.claim(Path(f"out/{name}.png")) for name in "abc")
    again.close()


def test_a_journal_is_read_on_from_where_it_was(setting: Setting) -> None:
    setting.photo("in/a.png")
    setting.run("in", "-o", "out")
    reader = Journal("out")
    assert reader.record(Path("out/b.png")) is None and reader.record(Path("out/a.png"))
    path = setting.folder / "out" / FILE_NAME
    line = path.read_bytes().replace(b"a.png", b"b.png")
    path.write_bytes(path.read_bytes() + line[:20])
    assert reader.record(Path("out/b.png")) is None
    path.write_bytes(path.read_bytes() + line[20:])
    assert reader.record(Path("out/b.png"))
    path.write_bytes(line)  # replaced by a shorter one
    assert reader.record(Path("out/a.png")) is None and reader.record(Path("out/b.png"))
    path.unlink()
    assert reader.record(Path("out/b.png")) is None
