"""Files of this user: opened only if nobody else could have written them, locked, and hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["SAFE_FLAGS", "file_sha256", "is_own", "lock_range", "open_own", "try_lock",
           "user_folder"]

# No link is followed, and a pipe does not block. Windows has none of them.
SAFE_FLAGS = (getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
              | getattr(os, "O_NONBLOCK", 0))
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_BUSY = {errno.EAGAIN, errno.EACCES}


def open_own(path: str | os.PathLike[str], flags: int = os.O_RDONLY, *,
             as_folder: bool = False) -> int:
    """Opens a regular file that belongs to this user or to root, and that no other may write.

    A symbolic link is not followed. ``as_folder``: those who may write the file's folder may also
    write the file, for files of little harm on file systems that give every file the same mode.
    With O_CREAT, a new file has mode 0644 less the umask. Returns the descriptor; raises OSError,
    whose ``strerror`` contains the reason and the remedy.
    """
    shown = os.fspath(path)
    try:
        descriptor = os.open(path, flags | SAFE_FLAGS, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):
            raise OSError(errno.ELOOP, "it is a symbolic link; remove it", shown) from None
        raise
    try:
        reason = _why_not_own(descriptor, Path(path), as_folder)
        if reason is not None:
            raise PermissionError(errno.EPERM, reason, shown)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _why_not_own(descriptor: int, path: Path, as_folder: bool) -> str | None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file; remove it"
    if not (is_own(status) or status.st_uid == 0):
        return f"it belongs to another user (uid {status.st_uid}); remove it"
    others = status.st_mode & _OTHERS
    if as_folder and others:
        folder = os.stat(path.parent).st_mode
        if not folder & stat.S_ISVTX:  # in a folder such as /tmp, files are their owners' alone
            others &= ~folder
    if others and os.name == "posix":
        return f"other users may write it; remove it, or run chmod go-w {path}"
    return None


def is_own(status: os.stat_result) -> bool:
    """Whether a file belongs to the user that this process runs as."""
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed everywhere (flock). False: another process
    holds the lock. None: there are no locks here."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True


def lock_range(descriptor: int, start: int, *, wait: bool = False, unlock: bool = False) -> bool:
    """Lock or unlock byte ``start`` of an open file, which need not have it, until it is closed.

    The lock belongs to the descriptor: two of one process exclude each other, too. Returns False
    if another holds it and ``wait`` is false; True also where there are no such locks.
    """
    command = getattr(fcntl, "F_OFD_SETLKW" if wait else "F_OFD_SETLK", None)
    if command is None:
        return True
    kind = fcntl.F_UNLCK if unlock else fcntl.F_WRLCK
    try:
        # struct flock: type, whence, start, length, and 0 for the process.
        fcntl.fcntl(descriptor, command, struct.pack("hhqqi", kind, os.SEEK_SET, start, 1, 0))
    except OSError as error:
        return error.errno not in _BUSY
    return True


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def user_folder(variable: str, usual: str) -> Path:
    """The package's folder in the XDG base directory that environment variable ``variable`` names
    (XDG_DATA_HOME, ...), by default in folder ``usual`` of the home folder. It need not exist."""
    named = os.environ.get(variable)
    base = Path(named) if named and os.path.isabs(named) else Path.home() / usual
    return base / "bidiff_deploy"
