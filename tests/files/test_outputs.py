"""Outputs are whole or absent, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from bidiff_deploy.errors import OutputError
from bidiff_deploy.files import (
    TEMPORARY_SUFFIX,
    atomic_directory,
    atomic_file,
    check_target,
    make_directory,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "result.bin"
    with atomic_file(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".") and temporary.name.endswith(TEMPORARY_SUFFIX)
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole" and names(tmp_path) == ["result.bin"]


def test_a_new_file_has_ordinary_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize("interruption", [RuntimeError("x"), KeyboardInterrupt()])
def test_a_failing_block_leaves_the_old_file(tmp_path: Path, interruption: BaseException) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(type(interruption)):
        with atomic_file(target, overwrite=True) as temporary:
            temporary.write_text("half")
            raise interruption
    assert target.read_text() == "old" and names(tmp_path) == ["a"]


def test_an_existing_file_needs_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(OutputError, match="already exists.*--overwrite"):
        with atomic_file(target):
            pytest.fail("the block must not run")
    with atomic_file(target, overwrite=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with pytest.raises(OutputError, match="already exists"):
        with atomic_file(target) as temporary:
            temporary.write_text("ours")
            target.write_text("theirs")
    assert target.read_text() == "theirs" and names(tmp_path) == ["a"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_file(link, overwrite=True) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and real.read_text() == "new"


@pytest.mark.parametrize(("code", "words"), [
    (errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")])
def test_write_errors_become_sentences(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(OutputError, match=words) as caught:
        with atomic_file(tmp_path / "a"):
            raise OSError(code, os.strerror(code))  # as write() raises it: without a file name
    assert str(tmp_path / "a") in str(caught.value) and names(tmp_path) == []


def test_errors_of_other_files_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        with atomic_file(tmp_path / "a"):
            (tmp_path / "another").read_text()


def test_a_block_that_removes_its_file_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        with atomic_file(tmp_path / "a") as temporary:
            temporary.unlink()


def test_bad_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="folder does not exist"):
        check_target(tmp_path / "missing" / "a")
    with pytest.raises(OutputError, match="not a folder"):
        check_target(tmp_path / "file" / "a")
    with pytest.raises(OutputError, match="is a directory"):
        check_target(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="not a regular file"):
        check_target("/dev/null", overwrite=True)
    with pytest.raises(OutputError, match="cannot write"):
        check_target("a\0b")
    with pytest.raises(OutputError, match="too long"):
        check_target(tmp_path / ("n" * 300))
    assert names(tmp_path) == ["file"]


def test_a_long_name_leaves_room_for_the_temporary(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    with atomic_file(target) as temporary:
        temporary.write_text("x")
    assert target.read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="permission denied"):
            check_target(tmp_path / "a")
        with pytest.raises(OutputError, match="permission denied"):
            make_directory(tmp_path / "a")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(("code", "words"), [
    (errno.EACCES, "permission denied"), (errno.EROFS, "read-only"), (errno.EIO, "Input/output")])
def test_a_folder_is_tried_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           code: int, words: str) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match=words) as caught:
        with atomic_file(tmp_path / "a"):
            pytest.fail("the block must not run")
    assert f"cannot write {tmp_path / 'a'}:" in str(caught.value)


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    check_target(tmp_path / "a")
    check_target(tmp_path / "b", directory=True)
    assert names(tmp_path) == []


def test_a_directory_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with atomic_directory(target) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "x").write_text("1")
        assert not target.exists()
    assert (target / "deep" / "x").read_text() == "1" and names(tmp_path) == ["bundle"]


def test_a_failing_block_leaves_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text("old")
    with pytest.raises(RuntimeError):
        with atomic_directory(target, overwrite=True, marker="manifest.json") as temporary:
            (temporary / "manifest.json").write_text("half")
            raise RuntimeError
    assert (target / "manifest.json").read_text() == "old" and names(tmp_path) == ["bundle"]


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text("old")
    (target / "stale").write_text("old")
    with pytest.raises(OutputError, match="already exists"):
        with atomic_directory(target, marker="manifest.json"):
            pytest.fail("the block must not run")
    with atomic_directory(target, overwrite=True, marker="manifest.json") as temporary:
        (temporary / "manifest.json").write_text("new")
    assert names(target) == ["manifest.json"] and names(tmp_path) == ["bundle"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "a.jpg").write_text("precious")
    with pytest.raises(OutputError, match="not replaced"):
        with atomic_directory(target, overwrite=True, marker="manifest.json"):
            pytest.fail("the block must not run")
    with pytest.raises(OutputError, match="not a directory"):
        check_target(target / "a.jpg", overwrite=True, directory=True)
    assert (target / "a.jpg").read_text() == "precious"


def test_make_directory(tmp_path: Path) -> None:
    assert make_directory(tmp_path / "a" / "b").is_dir()
    make_directory(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file of that name"):
        make_directory(tmp_path / "file")
    with pytest.raises(OutputError, match="not a folder"):
        make_directory(tmp_path / "file" / "b")
