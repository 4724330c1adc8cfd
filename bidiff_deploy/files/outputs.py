"""Outputs that are whole or absent: written to a temporary file in the same folder, then renamed.

A process may be killed at any moment: an output is as it was before or complete. Of two processes
that write one output, the second fails unless it may overwrite. Every failure is an OutputError of
one sentence.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BidiffError, OutputError
from .renames import exchange, rename_new
from .temporaries import only_if_unused, remove, temporary

__all__ = ["atomic_directory", "atomic_file", "check_target", "make_directory"]

# Why an output cannot be written, and what to do.
_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.ENOENT: "its folder does not exist; create it first",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EFBIG: "the file is too large for this file system",
    errno.ELOOP: "its path has a loop of links",
}
# Errors that only a write can cause: reported for the output even if they carry no file name.
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}


def check_target(path: str | os.PathLike[str], overwrite: bool = False, *,
                 directory: bool = False, marker: str | None = None) -> Path:
    """The resolved path of an output that may be written.

    Links are followed: a link is kept, and the file that it points to is replaced. Raises
    OutputError if the target's folder is missing or not writable (tested with a temporary file that
    is removed at once), if the target exists and ``overwrite`` is false, or if a file exists where
    a directory is to be written or the reverse. An existing directory is replaced only if it is
    empty or contains a file ``marker``: a mistyped ``-o`` must not delete a folder of photos.
    """
    shown = os.fspath(path)
    target = _resolved(shown)
    if directory:
        _finish_replacement(target)
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise _output_error(error, shown) from None
    kind = "directory" if directory else "file"
    if mode is not None:
        if not (stat.S_ISDIR(mode) if directory else stat.S_ISREG(mode)):
            what = "a directory" if stat.S_ISDIR(mode) else "not a directory" if directory else \
                "not a regular file"
            raise OutputError(f"cannot write {kind} {shown}: it exists and is {what}; "
                              "choose another output")
        if not overwrite:
            raise _exists(shown)
        if directory and not _replaceable(target, shown, marker):
            reason = f"it is not empty and contains no {marker}" if marker else "it is not empty"
            raise OutputError(f"{shown} is not replaced, because {reason}; choose another output")
    # Tested by writing: os.access is wrong for root and on several file systems.
    try:
        with temporary(target):
            pass
    except OSError as error:
        raise _output_error(error, shown) from None
    return target


@contextmanager
def atomic_file(path: str | os.PathLike[str], overwrite: bool = False, *,
                mode: int = 0o666) -> Iterator[Path]:
    """Yields the path of an empty temporary file, which is renamed to ``path`` on success.

    The file has ``mode`` less the umask and is flushed to disk before it is renamed. If the block
    raises, the temporary file is removed and ``path`` is as it was. Raises OutputError where
    check_target does, if another process has written ``path`` in the meantime and ``overwrite`` is
    false, and if writing fails (full disk, read-only file system); other errors of the block pass.
    """
    shown = os.fspath(path)
    target = check_target(path, overwrite)
    with _output_errors(shown, target), temporary(target, mode=mode) as file:
        yield file
        _flush(file)
        if overwrite:
            os.replace(file, target)
        else:
            rename_new(file, target)


@contextmanager
def atomic_directory(path: str | os.PathLike[str], overwrite: bool = False, *,
                     marker: str | None = None) -> Iterator[Path]:
    """Yields an empty temporary directory in the same folder, renamed to ``path`` on success.

    With ``overwrite`` an existing directory is replaced if it is empty or contains a file
    ``marker`` (see check_target): old and new are exchanged in one step, then the old one is
    deleted. A file system that cannot exchange needs two steps, which a RuntimeWarning reports: if
    the process is killed between them, the next writer of ``path`` puts the old one back. Raises as
    atomic_file.
    """
    shown = os.fspath(path)
    target = check_target(path, overwrite, directory=True, marker=marker)
    with _output_errors(shown, target), temporary(target, directory=True) as new:
        yield new
        for folder, _, names in os.walk(new):
            for name in names:
                _flush(Path(folder, name))
        check_target(path, overwrite, directory=True, marker=marker)
        if not (overwrite and target.exists()):
            rename_new(new, target)
        elif not exchange(new, target):
            _replace_in_two_steps(new, target, shown)


def make_directory(path: str | os.PathLike[str]) -> Path:
    """Create a folder and its missing parents; one that exists is fine. Raises OutputError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"cannot create folder {folder}: a file of that name exists; choose "
                          "another place") from None
    except (OSError, ValueError) as error:
        raise _output_error(error, str(folder)) from None
    return folder


def _replace_in_two_steps(new: Path, target: Path, shown: str) -> None:
    old = _aside(target)
    warnings.warn(f"the file system of {shown} cannot exchange two folders; if this process is "
                  f"killed before both are renamed, {old} is the previous one, which the next "
                  "export puts back", RuntimeWarning, stacklevel=4)
    with only_if_unused(target):  # locked, so that no other process puts it back
        try:
            os.rename(target, old)
            os.rename(new, target)
        except BaseException:
            if not target.exists():
                os.rename(old, target)
            raise
        remove(old)


def _finish_replacement(target: Path) -> None:
    """Put a folder back, or remove it, that a process killed in ``_replace_in_two_steps`` left."""
    old = _aside(target)
    with only_if_unused(old) as unused:
        if not unused:
            return
        try:
            rename_new(old, target)
        except FileExistsError:
            remove(old)
        except OSError:
            pass  # reported when the output is written


def _aside(target: Path) -> Path:
    """Where a folder is while another takes its name: not a temporary, which would be removed."""
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    return target.with_name(f".{target.name[:40]}.{digest}.bidiff.old")


def _resolved(shown: str) -> Path:
    try:
        return Path(os.path.realpath(shown))
    except FileNotFoundError:
        raise OutputError(f"cannot write {shown}: the current folder was removed; change to one "
                          "that exists") from None
    except OSError as error:
        raise _output_error(error, shown) from None
    except ValueError as error:  # a NUL in the name
        raise OutputError(f"cannot write {shown!r}: {error}") from None


def _exists(shown: str) -> OutputError:
    return OutputError(f"{shown} already exists; choose another output or allow it to be replaced "
                       "with --overwrite")


def _replaceable(target: Path, shown: str, marker: str | None) -> bool:
    try:
        return (marker is not None and (target / marker).is_file()) or not any(target.iterdir())
    except OSError as error:
        raise _output_error(error, shown) from None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _output_errors(shown: str, target: Path) -> Iterator[None]:
    try:
        yield
    except BidiffError:
        raise
    except OSError as error:
        names = [os.fspath(name) for name in (error.filename, error.filename2)
                 if isinstance(name, (str, os.PathLike))]
        hidden = str(target.with_name(f".{target.name[:40]}."))  # how temporaries begin
        ours = any(name.startswith(hidden) for name in names)
        if ours and error.errno == errno.EEXIST:  # another process was quicker
            raise _exists(shown) from None
        if ours or error.errno in _WRITE_ERRORS:
            raise _output_error(error, shown) from error
        raise


def _output_error(error: Exception, shown: str) -> OutputError:
    code = error.errno if isinstance(error, OSError) else None
    reason = (_REASONS.get(code) or os.strerror(code)) if code else str(error)
    return OutputError(f"cannot write {shown}: {reason}")
