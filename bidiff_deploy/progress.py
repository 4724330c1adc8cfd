"""One line on stderr: how much of a long job is done, and the estimated time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from .errors import printable

__all__ = ["Progress", "duration"]

_REDRAW_SECONDS = 0.1  # on a terminal
_LINE_SECONDS = 10.0  # elsewhere: a log should not fill up


class Progress:
    """Progress of ``total`` equal pieces of work, as a context manager. None: the total is unknown,
    so only elapsed time is shown.

    On a terminal the line is redrawn in place; elsewhere a line is written every ten seconds, so
    that short jobs write nothing to a log. ``quiet`` writes nothing at all. The estimate assumes
    that the remaining pieces take as long as those done. Write errors of the stream are ignored.
    """

    def __init__(self, label: str, total: float | None, *, quiet: bool = False,
                 stream: TextIO | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.label = label
        self.total = total
        self._stream = None if quiet else sys.stderr if stream is None else stream
        self._clock = clock
        self._started = self._written = clock()
        self._in_place = self._stream is not None and self._stream.isatty()
        self._width = 0

    @property
    def shown(self) -> bool:
        """Whether anything is ever written."""
        return self._stream is not None

    @property
    def on_terminal(self) -> bool:
        """Whether the line is redrawn in place."""
        return self._in_place

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.clear()

    def update(self, done: float, label: str | None = None) -> None:
        """Report that ``done`` of ``total`` pieces are finished, fractions allowed; ``label``
        replaces the line's label."""
        if label is not None:
            self.label = printable(label)
        now = self._clock()
        pause = _REDRAW_SECONDS if self._in_place else _LINE_SECONDS
        unfinished = self.total is None or done < self.total
        if self._stream is None or (now - self._written < pause and unfinished):
            return
        if not self._in_place and now - self._started < _LINE_SECONDS:
            return
        self._written = now
        self._write(self._line(done, now - self._started))

    def clear(self) -> None:
        """Remove the line from a terminal, so that the next output takes its place."""
        if self._in_place and self._width:
            self._emit("\r" + " " * self._width + "\r")
            self._width = 0

    def left(self, done: float) -> str | None:
        """The estimated time left, once ``done`` of ``total`` pieces are; None: it is unknown."""
        if not self.total or not 0 < done < self.total:
            return None
        elapsed = self._clock() - self._started
        return duration(elapsed * (self.total - done) / done)

    def _line(self, done: float, elapsed: float) -> str:
        if self.total is None:
            return f"{self.label}: {duration(elapsed)}"
        share = min(done / self.total, 1.0) if self.total else 1.0
        text = f"{self.label}: {100 * share:3.0f}%, {duration(elapsed)}"
        left = self.left(done)
        return text if left is None else f"{text}, about {left} left"

    def _write(self, text: str) -> None:
        if self._in_place:
            self._emit("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._emit(text + "\n")

    def _emit(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe must not end the job
            self._stream = None
            self._in_place = False


def duration(seconds: float) -> str:
    """``9 s``, ``2:05 min`` or ``3:07:00 h``."""
    whole = int(round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"
