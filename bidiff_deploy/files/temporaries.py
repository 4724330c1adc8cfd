"""Temporary files and folders next to an output: their names, their locks, and their removal.

A temporary is hidden and ends in ``.bidiff.tmp`` (``.photo.png.1f2e3d4c.bidiff.tmp``), so that it
is never taken for a result. Its writer holds a lock (flock) on it. The kernel releases the lock
when the process ends, however it ends, so the next writer into the same folder removes every
temporary of this user that has no lock. Where a file system has no locks, temporaries remain.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .own import SAFE_FLAGS as _FLAGS
from .own import is_own, try_lock

__all__ = ["TEMPORARY_SUFFIX", "only_if_unused", "remove", "remove_leftovers", "temporary",
           "temporary_name"]

TEMPORARY_SUFFIX = ".bidiff.tmp"
_NAME = re.compile(rf"\..{{1,40}}\.[0-9a-f]{{8}}{re.escape(TEMPORARY_SUFFIX)}", re.DOTALL)

# A large folder is not searched at every write: at most one in this many names is a file to write.
_NAMES_PER_WRITE = 1000
_writes_to_skip: dict[Path, int] = {}


@contextmanager
def temporary(target: Path, *, directory: bool = False, mode: int = 0o666) -> Iterator[Path]:
    """Yields the path of a new, empty, locked temporary next to ``target``; removes at the end
    whatever then has that name. Raises OSError."""
    remove_leftovers(target.parent)
    path, descriptor = _create(target, directory, mode)
    try:
        yield path
    finally:
        try:
            remove(path)
        finally:
            os.close(descriptor)


def temporary_name(target: Path) -> Path:
    """A name for a temporary of ``target``, which is shortened: names are limited to 255 bytes."""
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporaries in a folder whose writers have ended. Raises nothing."""
    if _writes_to_skip.get(folder, 0) > 0:
        _writes_to_skip[folder] -= 1
        return
    try:
        names = os.listdir(folder)
    except OSError:
        return
    if len(names) >= _NAMES_PER_WRITE:
        _writes_to_skip[folder] = len(names) // _NAMES_PER_WRITE
    for name in filter(_NAME.fullmatch, names):
        with only_if_unused(folder / name) as unused:
            if unused:
                remove(folder / name)


@contextmanager
def only_if_unused(path: Path) -> Iterator[bool]:
    """Yields whether ``path`` is a file or folder of this user that no living process has locked;
    it is locked inside the block."""
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | _FLAGS)  # NFS locks nothing that is only read
        except IsADirectoryError:
            descriptor = os.open(path, _FLAGS)
    except OSError:
        yield False
        return
    try:
        yield is_own(os.fstat(descriptor)) and try_lock(descriptor) is True and _names(
            path, descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder with all its content, as far as possible. Raises nothing."""
    with suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def _create(target: Path, directory: bool, mode: int) -> tuple[Path, int]:
    while True:
        path = temporary_name(target)
        # Not tempfile: its files are readable by their owner only, and renaming keeps that.
        if directory:
            path.mkdir()
            try:
                descriptor = os.open(path, _FLAGS)
            except FileNotFoundError:
                continue
        else:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        # Before it was locked, another process may have taken it for a leftover.
        if try_lock(descriptor) is not False and _names(path, descriptor):
            return path, descriptor
        os.close(descriptor)


def _names(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is still the name of an open file or folder."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
