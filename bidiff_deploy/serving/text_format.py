"""Writes the parts of Protocol Buffers' text format that a model's configuration needs.

A message is a list of (field, value). A value is a number, a boolean, a string, ``Name`` for an
enum, a tuple of these for a repeated field, or a list of (field, value) for a message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Fields", "Name", "to_text"]

Fields = Sequence[tuple[str, Any]]

_ESCAPES = {ord(char): f"\\{shown}" for char, shown in
            (("\\", "\\"), ('"', '"'), ("\n", "n"), ("\r", "r"), ("\t", "t"))}


class Name(str):
    """The value of an enum, written without quotation marks."""


def to_text(fields: Fields) -> str:
    """The message as text that ``google.protobuf.text_format`` and Triton read."""
    return "".join(line + "\n" for line in _lines(fields))


def _lines(fields: Fields) -> Iterator[str]:
    for field, value in fields:
        if isinstance(value, list):
            yield f"{field} {{"
            yield from ("  " + line for line in _lines(value))
            yield "}"
        else:
            yield f"{field}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_escaped(byte) for byte in value.encode("utf-8")) + '"'
    raise TypeError(f"{type(value).__name__} has no text form here")


def _escaped(byte: int) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
