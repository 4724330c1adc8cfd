"""Outputs of writers that are killed at any moment, and of writers side by side."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bidiff_deploy.errors import OutputError
from bidiff_deploy.files import (
    TEMPORARY_SUFFIX,
    atomic_directory,
    atomic_file,
    check_target,
    outputs,
    own,
    renames,
    temporaries,
)
from support.killed import Killed, killed_after


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


OLD, NEW = {"manifest.json": "old", "stale": "old"}, {"manifest.json": "new"}


def bundle(folder: Path, content: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def replace(target: Path) -> None:
    with atomic_directory(target, overwrite=True, marker="manifest.json") as temporary:
        (temporary / "manifest.json").write_text("new")


def no_renameat2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without it: the real call, with flags that no kernel knows."""
    monkeypatch.setattr(renames, "_NOREPLACE", 1 << 9)
    monkeypatch.setattr(renames, "_EXCHANGE", 1 << 9)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("exchanges", [True, False])
def test_a_directory_is_old_or_new_whenever_its_writer_is_killed(
        tmp_path: Path, exchanges: bool) -> None:
    seen = []
    for count in range(100):
        target = bundle(tmp_path / str(count), OLD)
        folder = tmp_path / f"in{count}"
        folder.mkdir()
        target = target.rename(folder / "bundle")
        with pytest.MonkeyPatch.context() as patch:
            if not exchanges:
                no_renameat2(patch)
            reached = killed_after(count, patch)
            with suppress(Killed):
                replace(target)
            complete = not reached()
        if exchanges:  # without, the next writer puts it back
            assert content(target) in (OLD, NEW)
        with suppress(OutputError):
            check_target(target, overwrite=True, directory=True, marker="manifest.json")
        seen.append(content(target))
        assert seen[-1] in (OLD, NEW) and names(folder) == ["bundle"]
        if complete:
            break
    assert seen[0] == OLD and seen[-1] == NEW and count >= 4
    assert seen == sorted(seen, key=[OLD, NEW].index)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_old_or_new_whenever_its_writer_is_killed(tmp_path: Path,
                                                            overwrite: bool) -> None:
    for count in range(100):
        folder = tmp_path / str(count)
        folder.mkdir()
        target = folder / "a"
        before = {"a": "old"} if overwrite else {}
        if overwrite:
            target.write_text("old")
        with pytest.MonkeyPatch.context() as patch:
            reached = killed_after(count, patch)
            with suppress(Killed), atomic_file(target, overwrite) as temporary:
                temporary.write_text("new")
            complete = not reached()
        check_target(folder / "another")  # the next write into the folder
        assert content(folder) in (before, {"a": "new"})
        if complete:
            break
    assert content(folder) == {"a": "new"} and count >= 2


def test_a_real_kill_leaves_a_temporary_that_the_next_writer_removes(tmp_path: Path) -> None:
    code = ("import os, sys, signal\nfrom bidiff_deploy.files import *\n"
            "with atomic_file(sys.argv[1]) as one, atomic_directory(sys.argv[2]) as two:\n"
            "    (two / 'x').write_text('half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a", tmp_path / "b"])
    assert done.returncode == -9 and len(names(tmp_path)) == 2
    with atomic_file(tmp_path / "c") as temporary:
        assert names(tmp_path) == [temporary.name]
    assert names(tmp_path) == ["c"]


def test_only_our_temporaries_without_a_writer_are_removed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f".a.0123abcd{TEMPORARY_SUFFIX}"
    kept = [".a.0123abcd.tmp", f"a.0123abcd{TEMPORARY_SUFFIX}", f".a.0123{TEMPORARY_SUFFIX}"]
    for name in (*kept, left.name):
        (tmp_path / name).write_text("half")
    (tmp_path / f".l.0123abcd{TEMPORARY_SUFFIX}").symlink_to(tmp_path / kept[0])
    linked = [f".l.0123abcd{TEMPORARY_SUFFIX}"]
    foreign = os.geteuid() + 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: foreign)  # all files are another user's
        check_target(tmp_path / "b")
        assert left.exists()
    with atomic_file(tmp_path / "a") as mine:
        check_target(tmp_path / "b")
        assert mine.exists() and not left.exists()
    assert names(tmp_path) == sorted([*kept, *linked, "a"])


@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_of_two_writers_the_second_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         supported: bool, links: bool) -> None:
    if not supported:
        no_renameat2(monkeypatch)
    if not links:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "no links here")
        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "a"
    with pytest.raises(OutputError, match="a already exists.*--overwrite"):
        with atomic_file(target) as slow:
            slow.write_text("second")
            with atomic_file(target) as quick:
                quick.write_text("first")
    assert target.read_text() == "first" and names(tmp_path) == ["a"]
    target = tmp_path / "b"
    with pytest.raises(OutputError, match="b already exists.*--overwrite"):
        with atomic_directory(target):
            with atomic_directory(target) as quick:
                (quick / "x").write_text("first")
    assert content(target) == {"x": "first"} and names(tmp_path) == ["a", "b"]


def test_a_writer_between_check_and_rename_is_not_replaced(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name appears at the last moment: after every check, before the kernel's rename."""
    call = renames._function()
    target = tmp_path / "a"

    def late(*arguments: object) -> int:
        target.write_text("other")
        ctypes.set_errno(0)
        return int(call(*arguments))

    for supported in (True, False):
        target.unlink(missing_ok=True)
        with monkeypatch.context() as patch, pytest.raises(OutputError, match="already exists"):
            patch.setattr(renames, "_function", lambda: late)
            if not supported:
                no_renameat2(patch)
            with atomic_file(target) as temporary:
                temporary.write_text("ours")
        assert content(tmp_path) == {"a": "other"}


def test_without_exchange_it_is_reported_and_a_failure_is_undone(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = bundle(tmp_path / "bundle", OLD)
    no_renameat2(monkeypatch)
    rename, calls = os.rename, []

    def failing(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == 2:  # 1: old aside, 2: new into place, 3: old back
            raise OSError(errno.EIO, "no", str(source))
        rename(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(OutputError), pytest.warns(RuntimeWarning, match="cannot exchange"):
            replace(target)
    assert content(target) == OLD and names(tmp_path) == ["bundle"]
    with pytest.warns(RuntimeWarning, match="cannot exchange two folders"):
        replace(target)
    assert content(target) == NEW and names(tmp_path) == ["bundle"]


def test_a_folder_that_a_living_writer_put_aside_stays(tmp_path: Path) -> None:
    old = bundle(outputs._aside(tmp_path / "bundle"), OLD)
    descriptor = os.open(old, os.O_RDONLY)
    assert own.try_lock(descriptor)
    check_target(tmp_path / "bundle", directory=True)
    os.close(descriptor)
    with pytest.raises(OutputError, match="already exists"):
        check_target(tmp_path / "bundle", directory=True)
    assert content(tmp_path / "bundle") == OLD and names(tmp_path) == ["bundle"]


def test_a_large_folder_is_not_searched_at_every_write(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []

    def listdir(folder: Path) -> list[str]:
        searched.append(folder)
        return ["x"] * 3000

    monkeypatch.setattr(os, "listdir", listdir)
    for _ in range(8):
        temporaries.remove_leftovers(tmp_path)
    assert len(searched) == 2


def test_in_a_removed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OutputError, match="current folder was removed"):
        check_target("a")
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert names(tmp_path) == ["a"]
