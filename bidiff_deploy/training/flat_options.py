"""A nested option file as dotted keys that are taken one by one, so that what is left is known."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError

__all__ = ["Flat"]


class Flat:
    """``{"train": {"lr": 1}}`` as ``train.lr``; lists are values. ``origin`` names the file.

    A pattern is a dotted key in which ``*`` stands for anything but a dot.
    """

    def __init__(self, tree: Mapping[str, Any], origin: str) -> None:
        self.origin = origin
        self._left = dict(_leaves(tree, ""))

    def keys(self) -> list[str]:
        """What is left and not off (null or false), in the file's order."""
        return [key for key, value in self._left.items()
                if value is not None and value is not False]

    def below(self, group: str) -> list[str]:
        """The next part of the keys that are left in a group."""
        start = f"{group}."
        return list(dict.fromkeys(key[len(start):].partition(".")[0] for key in self._left
                                  if key.startswith(start)))

    def peek(self, key: str) -> Any:
        return self._left.get(key)

    def take(self, key: str, default: Any = None) -> Any:
        """A key's value, which is then no longer left; ``default`` where it lacks or is null."""
        value = self._left.pop(key, None)
        return default if value is None else value

    def whole(self, key: str) -> int | None:
        """``take``, of a whole number however YAML has read it (2e4 is a float, 1e6 text)."""
        value = self.number(key)
        if value is not None and value != int(value):
            raise UsageError(f"{self.origin}: {key} must be a whole number, not {value!r}")
        return None if value is None else int(value)

    def number(self, key: str, default: float | None = None) -> float | None:
        """``take``, of a finite number."""
        value = self.take(key)
        if value is None:
            return default
        try:
            if isinstance(value, bool):
                raise TypeError
            number = float(value)
            if number - number != 0:
                raise ValueError
        except (TypeError, ValueError):
            raise UsageError(f"{self.origin}: {key} must be a number, not {value!r}") from None
        return number

    def only(self, pattern: str, allowed: Sequence[Any], remedy: str) -> None:
        """Take every key of ``pattern``; raise UsageError for a value that is neither allowed nor
        null."""
        for key in self._matching(pattern):
            value = self.take(key)
            if value is not None and value not in allowed:
                known = f", only {allowed[0]!r} is" if allowed else ""
                raise UsageError(f"{self.origin}: {key}: {value!r} is not supported{known}; "
                                 f"{remedy}")

    def drop(self, pattern: str) -> None:
        """Pass over every key of ``pattern``."""
        for key in self._matching(pattern):
            del self._left[key]

    def _matching(self, pattern: str) -> list[str]:
        parts = pattern.split(".")
        return [key for key in self._left if key.count(".") == len(parts) - 1
                and all(map(fnmatch.fnmatchcase, key.split("."), parts))]

    def add(self, note: str) -> None:
        """Leave something to be named."""
        self._left[note] = True


def _leaves(tree: Mapping[str, Any], prefix: str) -> Any:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
