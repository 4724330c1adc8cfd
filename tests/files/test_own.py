"""Files of this user: opened only if nobody else could have written them, and locked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bidiff_deploy.files import lock_range, open_own


def test_what_another_could_have_written_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    tmp_path.chmod(0o755)
    path.chmod(0o644)
    os.close(open_own(path))
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic link"):
        open_own(tmp_path / "link", os.O_CREAT | os.O_RDWR)
    (tmp_path / "loose").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        open_own(tmp_path / "loose", os.O_CREAT | os.O_RDWR)
    assert not (tmp_path / "victim").exists()
    os.mkfifo(tmp_path / "pipe")
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(OSError, match="not a regular file"):
            open_own(tmp_path / "pipe", flags)
    with pytest.raises(OSError, match="not a regular file"):
        open_own(tmp_path)
    for mode in (0o664, 0o646, 0o666):
        path.chmod(mode)
        for as_folder in (False, True):
            with pytest.raises(OSError, match=f"chmod go-w {path}"):
                open_own(path, as_folder=as_folder)


def test_a_file_may_be_as_open_as_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    path.chmod(0o666)
    tmp_path.chmod(0o777)
    os.close(open_own(path, as_folder=True))
    with pytest.raises(OSError, match="other users"):
        open_own(path)
    tmp_path.chmod(0o1777)  # as /tmp
    with pytest.raises(OSError, match="other users"):
        open_own(path, as_folder=True)


@pytest.mark.parametrize(("owner", "good"), [(0, True), (1, True), (2, False)])
def test_the_owner_is_this_user_or_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        owner: int, good: bool) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    status = list(os.stat(path))
    status[stat.ST_UID] = owner
    monkeypatch.setattr(os, "fstat", lambda descriptor: os.stat_result(status))
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    if good:
        os.close(open_own(path))
        return
    with pytest.raises(OSError, match=r"another user \(uid 2\)"):
        open_own(path)


def test_a_new_file_is_writable_by_its_owner_only(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        os.close(open_own(tmp_path / "a", os.O_CREAT | os.O_RDWR))
    finally:
        os.umask(mask)
    os.close(open_own(tmp_path / "a"))


def test_ranges_exclude_two_descriptors_of_one_process(tmp_path: Path) -> None:
    first, second = (open_own(tmp_path / "a", os.O_CREAT | os.O_RDWR) for _ in range(2))
    assert lock_range(first, 5) and lock_range(first, 5) and lock_range(second, 6)
    assert not lock_range(second, 5)
    assert lock_range(first, 5, unlock=True) and lock_range(second, 5)
    os.close(open_own(tmp_path / "a"))  # a POSIX lock would end here
    assert not lock_range(first, 5)
    os.close(second)
    assert lock_range(first, 5, wait=True)
    os.close(first)
