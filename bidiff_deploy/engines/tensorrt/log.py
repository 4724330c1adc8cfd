"""TensorRT's log: the latest messages, of which sentences for users are made."""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import Any

from ...errors import one_line
from ..gpu.failures import is_out_of_memory

__all__ = ["MAX_CHARS", "NO_REASON", "Log", "logger_class"]

NO_REASON = "no reason given"
MAX_CHARS = 500  # of a message
_MAX_LINES = 20
_OTHER_PRECISION = "obeys the requested constraints"


class Log:
    """TensorRT's latest messages of severity WARNING or worse."""

    def __init__(self) -> None:
        self._lines: deque[tuple[bool, str]] = deque(maxlen=_MAX_LINES)
        self._other_precision = False
        self._lock = threading.Lock()

    def add(self, error: bool, text: str) -> None:
        """Keep a message; ``error``: whether it is worse than a warning."""
        with self._lock:
            self._lines.append((error, one_line(text, MAX_CHARS)))
            # Searched in the whole text: long names of fused layers may precede the phrase.
            self._other_precision |= _OTHER_PRECISION in text.lower()

    def clear(self) -> None:
        """Remove all messages, before a call that may fail."""
        with self._lock:
            self._lines.clear()
            self._other_precision = False

    def text(self) -> str:
        """All messages, for a search."""
        with self._lock:
            return "\n".join(line for _, line in self._lines)

    def sentence(self, otherwise: str) -> str:
        """The first two errors, because later ones follow from them; else the last warning; else
        ``otherwise``."""
        with self._lock:
            errors = list(dict.fromkeys(line for error, line in self._lines if error))
            warnings = [line for error, line in self._lines if not error]
        chosen = errors[:2] or warnings[-1:]
        return ("; ".join(chosen) or otherwise).rstrip(". ")

    @property
    def out_of_memory(self) -> bool:
        """Whether a message reports a lack of memory."""
        return is_out_of_memory(self.text())

    @property
    def other_precision(self) -> bool:
        """Whether some layer has no kernel in the precision that was set for it."""
        with self._lock:
            return self._other_precision


def logger_class(trt: Any) -> Any:
    """The class of our logger for a module ``trt``, whose class is its base."""
    severity = trt.ILogger.Severity
    errors = (severity.INTERNAL_ERROR, severity.ERROR)
    kept = (*errors, severity.WARNING)

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known at run time only
        def __init__(self, log: Log) -> None:
            trt.ILogger.__init__(self)
            self._log = log
            self.verbose = False

        def log(self, severity: Any, message: str) -> None:
            if severity in kept:
                self._log.add(severity in errors, message)
            if self.verbose and severity != trt.ILogger.Severity.VERBOSE:
                print(f"TensorRT: {message}", file=sys.stderr)

    return Logger
