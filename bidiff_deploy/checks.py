"""Checks of values that users pass, each with one wording, and of JSON that files contain.

A JSON document is described once, by a table of its keys (``Keys``), and checked before anything
uses it; what passes has the types, ranges and lengths of the table. Keys that a table does not name
are ignored, so that later versions can add some.
"""

from __future__ import annotations

import collections
import json
import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .errors import BidiffError, UsageError, quoted

__all__ = ["MAX_JSON_BYTES", "Entries", "Items", "Keys", "OrNull", "Text", "Value", "Whole",
           "load_json", "whole_number"]

MAX_JSON_BYTES = 4 << 20
MAX_CONTAINERS = 1 << 16  # lists and objects, which take 30 times their text in memory
MAX_DEPTH = 16
MAX_DIGITS = 20  # of an integer, as 64 bits have


def whole_number(name: str, value: Any, low: int, high: int | None = None, *, unit: str = "",
                 error: type[BidiffError] = UsageError) -> int:
    """``value`` as an int from ``low`` to ``high``; None: no upper limit.

    Takes ints and numpy integers, not bools. ``unit``: what is counted, such as "pixels". Raises
    ``error`` in a sentence that names ``name``, the value and the limits.
    """
    what = f"a whole number of {unit}" if unit else "a whole number"
    limits = f"at least {low}" if high is None else f"from {low} to {high}"
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise error(f"{name} is {quoted(value)}; it must be {what}, {limits}") from None
    if number < low or (high is not None and number > high):
        raise error(f"{name} is {quoted(number)}; it must be {what}, {limits}")
    return number


def load_json(data: str | bytes) -> Any:
    """The value of a JSON text of at most 4 MiB.

    Raises ValueError, with the reason, for other texts: not UTF-8 or JSON, NaN and infinities,
    integers of more than 20 digits, a key twice in one object, nesting deeper than 16, more than
    65536 lists and objects.
    """
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"it is longer than {MAX_JSON_BYTES >> 20} MiB")
    text = data if isinstance(data, str) else data.decode("utf-8")
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise ValueError(f"it has more than {MAX_CONTAINERS} lists and objects")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_integer,
                           object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
    if level:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer has more than {MAX_DIGITS} digits")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {quoted(twice)} is twice in one object")
    return found


class Value(Protocol):
    """What a value may be."""

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError, in a sentence that begins with ``name``, for another value."""


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``; no bool."""

    low: int = 0
    high: int = (1 << 63) - 1

    def check(self, name: str, value: Any) -> None:
        if type(value) is not int or not self.low <= value <= self.high:
            raise _wrong(name, value, f"a whole number from {self.low} to {self.high}")


@dataclass(frozen=True)
class Text:
    """A string of at most ``limit`` characters that ``pattern``, if any, matches as a whole;
    ``words`` describe it."""

    limit: int = 1000
    pattern: str = ""
    words: str = "a text"

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, str) or (self.pattern and not re.fullmatch(self.pattern, value)):
            raise _wrong(name, value, self.words)
        if len(value) > self.limit:
            raise _wrong(name, value, f"{self.words} of at most {self.limit} characters")


@dataclass(frozen=True)
class OrNull:
    """null or ``value``."""

    value: Value

    def check(self, name: str, value: Any) -> None:
        if value is not None:
            self.value.check(name, value)


@dataclass(frozen=True)
class Items:
    """A list of ``low`` to ``high`` items."""

    item: Value
    low: int = 0
    high: int = MAX_CONTAINERS

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, list):
            raise _wrong(name, value, "a list")
        if not self.low <= len(value) <= self.high:
            raise ValueError(f"{name} has {len(value)} items; it must have {self.low} to "
                             f"{self.high}")
        for index, item in enumerate(value):
            self.item.check(f"{name}[{index}]", item)


@dataclass(frozen=True)
class Entries:
    """An object whose keys are names that the table does not know."""

    key: Value
    value: Value | None = None

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise _wrong(name, value, "an object")
        for key, item in value.items():
            self.key.check(f"a key of {name}", key)
            if self.value is not None:
                self.value.check(f"{name}[{quoted(key)}]", item)


@dataclass(frozen=True)
class Keys:
    """An object that has the keys of ``required`` and may have those of ``optional``."""

    required: Mapping[str, Value]
    optional: Mapping[str, Value] = field(default_factory=dict)

    def check(self, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise _wrong(name, value, "an object")
        within = f"{name}." if name else ""
        for key, one in self.required.items():
            if key not in value:
                raise ValueError(f"{within}{key} is missing")
            one.check(f"{within}{key}", value[key])
        for key, one in self.optional.items():
            if key in value:
                one.check(f"{within}{key}", value[key])


def _wrong(name: str, value: Any, words: str) -> ValueError:
    return ValueError(f"{name} is {quoted(value)}; it must be {words}")
