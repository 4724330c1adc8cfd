"""Which checkpoints of a run stay in its folder."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import TEMPORARY_SUFFIX, atomic_file
from .state import write_run

__all__ = ["BEST", "Checkpoints", "NEWEST"]

NEWEST, BEST = "checkpoint.pt", "best.pt"
_LEFTOVER = re.compile(rf"\.{re.escape(NEWEST)}\.[0-9a-f]{{8}}{re.escape(TEMPORARY_SUFFIX)}")
_OLDER = re.compile(r"checkpoint_(\d{8,})\.pt")


class Checkpoints:
    """``checkpoint.pt``, the newest; ``checkpoint_<iteration>.pt``, older ones; ``best.pt``.

    keep       how many stay, the newest included
    iteration  of the newest that is there already; None: there is none
    """

    def __init__(self, folder: Path, keep: int = 1, iteration: int | None = None) -> None:
        self.folder, self.keep = folder, keep
        self.newest = folder / NEWEST
        self._iteration = iteration

    def save(self, state: Mapping[str, Any], best: bool = False) -> None:
        """Write ``state`` as the newest, and as the best too.

        Whatever goes wrong, the newest of before stays whole. Raises OutputError.
        """
        older = None
        if self.keep > 1 and self._iteration not in (None, state["iteration"]):
            older = self.folder / f"checkpoint_{self._iteration:08d}.pt"
            _same_file(self.newest, older)
        try:
            write_run(self.newest, state)
        except BaseException:
            if older is not None:
                with contextlib.suppress(OSError):
                    older.unlink()
            raise
        self._iteration = state["iteration"]
        if best:
            _same_file(self.newest, self.folder / BEST)
        for path in self.older()[:-(self.keep - 1) or None]:
            with contextlib.suppress(OSError):
                path.unlink()

    def remove_leftovers(self) -> None:
        """Remove what a run that was killed while it wrote the newest has left in the folder."""
        for path in self.folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    path.unlink()

    def older(self) -> list[Path]:
        """The numbered checkpoints, oldest first."""
        found = [(int(match.group(1)), path) for path in self.folder.iterdir()
                 if (match := _OLDER.fullmatch(path.name))]
        return [path for _, path in sorted(found)]


def _same_file(source: Path, target: Path) -> None:
    """Make ``target`` another name of ``source``, or a copy where a file has one name only."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        with atomic_file(target, overwrite=True) as copied:
            shutil.copyfile(source, copied)
