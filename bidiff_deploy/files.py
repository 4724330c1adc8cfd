"""Outputs that are whole or absent: written to a temporary file in the same folder, then renamed.

A temporary file is hidden and ends in ``.tmp`` (``.photo.png.1f2e3d4c.tmp``), so that one left by
a crash is never taken for a result. Every failure is an OutputError of one sentence.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import BidiffError, OutputError

__all__ = ["TEMPORARY_SUFFIX", "atomic_directory", "atomic_file", "check_target", "file_sha256",
           "make_directory", "user_folder"]

TEMPORARY_SUFFIX = ".tmp"

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
    try:
        target = Path(os.path.realpath(shown))
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise _output_error(error, shown) from None
    except ValueError as error:  # a NUL in the name
        raise OutputError(f"cannot write {shown!r}: {error}") from None
    kind = "directory" if directory else "file"
    if mode is not None:
        if not (stat.S_ISDIR(mode) if directory else stat.S_ISREG(mode)):
            what = "a directory" if stat.S_ISDIR(mode) else "not a directory" if directory else \
                "not a regular file"
            raise OutputError(f"cannot write {kind} {shown}: it exists and is {what}; "
                              "choose another output")
        if not overwrite:
            raise OutputError(f"{shown} already exists; choose another output or allow it to be "
                              "replaced with --overwrite")
        if directory and not _replaceable(target, shown, marker):
            reason = f"it is not empty and contains no {marker}" if marker else "it is not empty"
            raise OutputError(f"{shown} is not replaced, because {reason}; choose another output")
    # Tested by writing: os.access is wrong for root and on several file systems.
    probe = _temporary(target)
    try:
        _create(probe)
        os.unlink(probe)
    except OSError as error:
        raise _output_error(error, shown) from None
    return target


@contextmanager
def atomic_file(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yields the path of an empty temporary file, which is renamed to ``path`` on success.

    The file is flushed to disk before it is renamed with os.replace. If the block raises, the
    temporary file is removed and ``path`` is as it was. Raises OutputError where check_target does,
    and if writing fails (full disk, read-only file system); other errors of the block pass.
    """
    shown = os.fspath(path)
    target = check_target(path, overwrite)
    temporary = _temporary(target)
    with _output_errors(shown, temporary):
        try:
            _create(temporary)
            yield temporary
            _flush(temporary)
            if not overwrite:
                check_target(path)  # it may have appeared while we worked
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


@contextmanager
def atomic_directory(path: str | os.PathLike[str], overwrite: bool = False, *,
                     marker: str | None = None) -> Iterator[Path]:
    """Yields an empty temporary directory in the same folder, renamed to ``path`` on success.

    With ``overwrite`` an existing directory is replaced if it is empty or contains a file
    ``marker`` (see check_target): it is moved aside, the new one is renamed into place, and the old
    one is deleted, or moved back if the rename fails. Raises as atomic_file.
    """
    shown = os.fspath(path)
    target = check_target(path, overwrite, directory=True, marker=marker)
    temporary = _temporary(target)
    with _output_errors(shown, temporary):
        try:
            temporary.mkdir()
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    _flush(Path(folder, name))
            check_target(path, overwrite, directory=True, marker=marker)
            _swap(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


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


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.replace(temporary, target)
        return
    old = _temporary(target)
    os.replace(target, old)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _temporary(target: Path) -> Path:
    # Shortened: file systems limit a name to 255 bytes.
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def _create(path: Path) -> None:
    # Not tempfile: its files are readable by their owner only, and renaming keeps that.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _replaceable(target: Path, shown: str, marker: str | None) -> bool:
    try:
        return (marker is not None and (target / marker).is_file()) or not any(target.iterdir())
    except OSError as error:
        raise _output_error(error, shown) from None


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _output_errors(shown: str, temporary: Path) -> Iterator[None]:
    try:
        yield
    except BidiffError:
        raise
    except OSError as error:
        names = [os.fspath(name) for name in (error.filename, error.filename2)
                 if isinstance(name, (str, os.PathLike))]
        ours = any(name.startswith(str(temporary)) for name in names)
        if ours or error.errno in _WRITE_ERRORS:
            raise _output_error(error, shown) from error
        raise


def _output_error(error: Exception, shown: str) -> OutputError:
    code = error.errno if isinstance(error, OSError) else None
    reason = (_REASONS.get(code) or os.strerror(code)) if code else str(error)
    return OutputError(f"cannot write {shown}: {reason}")


def user_folder(variable: str, usual: str) -> Path:
    """The package's folder in the XDG base directory that environment variable ``variable`` names
    (XDG_DATA_HOME, ...), by default in folder ``usual`` of the home folder. It need not exist."""
    named = os.environ.get(variable)
    base = Path(named) if named and os.path.isabs(named) else Path.home() / usual
    return base / "bidiff_deploy"
