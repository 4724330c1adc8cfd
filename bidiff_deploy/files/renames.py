"""Renames that the kernel makes in one step: without replacing, and the exchange of two names.

Both are Linux's renameat2, which ``os`` does not offer, and which some file systems (NFS, most of
FUSE) and C libraries lack.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from pathlib import Path
from typing import Any

__all__ = ["exchange", "rename_new"]

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder to a name that is free; raises FileExistsError if it is not.

    Without renameat2, a file gets its name by link(), and a folder by rename(), which replaces
    nothing but an empty folder. Only on a file system without links can a file that appears at the
    same moment be replaced.
    """
    if _renameat2(source, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(source), None,
                              str(target))
    if source.is_dir():
        os.rename(source, target)
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # no links here
        os.rename(source, target)
    else:
        os.unlink(source)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False, and nothing is done, where that is impossible."""
    return _renameat2(first, second, _EXCHANGE)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    call = _function()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@functools.lru_cache(maxsize=1)
def _function() -> Any:
    """The C library's renameat2, or None."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
