"""The tree of exceptions that users of the package can meet.

    BidiffError                      every error that a user can fix
    |-- CheckpointError              a checkpoint that cannot be read or is of no known network
    |-- BundleError                  a bundle that is missing, damaged, foreign or too new
    |-- ImageError                   a file that is not an image, or an unusable image
    |-- EngineError                  a backend, kernel or op library that is missing or refuses
    |-- UsageError                   arguments that contradict each other or the bundle
    `-- OutputError                  an output that cannot be written or already exists

Every message is one sentence that names the file or value and says what to do. The command line
prints it after ``error:`` and exits with code 1.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BidiffError",
    "BundleError",
    "CheckpointError",
    "EngineError",
    "ImageError",
    "OutputError",
    "UsageError",
    "listed",
    "one_line",
    "printable",
    "quoted",
]


class BidiffError(Exception):
    """Base of every error that the user can fix; its text is one sentence."""


class CheckpointError(BidiffError):
    """A checkpoint or options file cannot be read, or does not describe a known network."""


class BundleError(BidiffError):
    """A bundle is missing, damaged, foreign, or newer than this version can read."""


class ImageError(BidiffError):
    """A file cannot be decoded as an image, or an image has an unusable shape or type."""


class EngineError(BidiffError):
    """A backend, its op library, or a forced kernel is not available on this machine."""


class UsageError(BidiffError, ValueError):
    """Arguments contradict each other, the bundle or the input shapes."""


class OutputError(BidiffError, OSError):
    """An output cannot be written, or exists and may not be replaced."""


def one_line(error: object, limit: int = 300) -> str:
    """The text of another library's error on one line of at most ``limit`` characters, all
    printable, or the name of its class if it has no text."""
    return printable(" ".join(str(error).split())[:limit])[:limit] or type(error).__name__


def listed(names: Iterable[object]) -> str:
    """Names as a file has them, sorted, at most 60 characters of each; quoted where one is empty or
    has characters that are not printable."""
    cut = sorted(str(name)[:60] for name in names)
    return ", ".join(name if name and name.isprintable() else ascii(name) for name in cut)


def printable(text: object) -> str:
    """``str(text)`` with every character escaped that is not printable: line ends, the sequences
    that steer a terminal, and marks that turn the direction of reading."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def quoted(text: object, limit: int = 60) -> str:
    """``repr`` of a value that a file brings along, for a message: of strings their first
    ``limit`` characters, of other values the first ``limit`` of their repr, then an ellipsis.
    Nothing in it is unprintable."""
    if isinstance(text, str):
        return repr(text[:limit]) if len(text) <= limit else repr(text[:limit] + "\u2026")
    try:
        found = printable(repr(text))
    except (ValueError, RecursionError):  # an int of too many digits, deep lists
        return f"a value of type {type(text).__name__}"
    return found if len(found) <= limit else found[:limit] + "\u2026"
