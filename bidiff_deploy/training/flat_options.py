"""An option file as dotted keys that are taken one by one, so that unused keys are known."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError

__all__ = ["Flat"]


class Flat:
    """``{"train": {"lr": 1}}`` as ``train.lr``; lists are values. ``origin``: the file, for errors.

    Patterns are dotted keys in which ``*`` matches anything except a dot.
    """

    def __init__(self, tree: Mapping[str, Any], origin: str) -> None:
        self.origin = origin
        self._left = dict(_leaves(tree, ""))

    def keys(self) -> list[str]:
        """The keys left whose value is neither null nor false, in the file's order."""
        return [key for key, value in self._left.items()
                if value is not None and value is not False]

    def below(self, group: str) -> list[str]:
        """The next part of each key left in a group."""
        start = f"{group}."
        return list(dict.fromkeys(key[len(start):].partition(".")[0] for key in self._left
                                  if key.startswith(start)))

    def peek(self, key: str) -> Any:
        return self._left.get(key)

    def take(self, key: str, default: Any = None) -> Any:
        """A key's value, and remove the key; ``default`` if it is missing or null."""
        value = self._left.pop(key, None)
        return default if value is None else value

    def whole(self, key: str) -> int | None:
        """``take`` for a whole number, also where YAML reads a float (2e4) or text (1e6)."""
        value = self.number(key)
        if value is not None and value != int(value):
            raise UsageError(f"{self.origin}: {key} must be a whole number, not {value!r}")
        return None if value is None else int(value)

    def number(self, key: str, default: float | None = None) -> float | None:
        """``take`` for a finite number."""
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
        """Take every key that matches ``pattern``. Raises UsageError for a value that is neither
        allowed nor null."""
        for key in self._matching(pattern):
            value = self.take(key)
            if value is not None and value not in allowed:
                known = f", only {allowed[0]!r} is" if allowed else ""
                raise UsageError(f"{self.origin}: {key}: {value!r} is not supported{known}; "
                                 f"{remedy}")

    def drop(self, pattern: str) -> None:
        """Remove every key that matches ``pattern``."""
        for key in self._matching(pattern):
            del self._left[key]

    def _matching(self, pattern: str) -> list[str]:
        parts = pattern.split(".")
        return [key for key in self._left if key.count(".") == len(parts) - 1
                and all(map(fnmatch.fnmatchcase, key.split("."), parts))]

    def add(self, note: str) -> None:
        """Add a text to what ``keys`` returns."""
        self._left[note] = True


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
