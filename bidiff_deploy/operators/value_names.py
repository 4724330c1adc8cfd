"""How graphs spell the names of parameters and blocks."""

from __future__ import annotations

_SHORT = (("encoder.", "e"), ("middle.", "m"), ("decoder.", "d"), (".conv", ".c"),
          (".attention", ".a"), (".norm", ".n"))


def short(name: str) -> str:
    """A parameter's or block's name as graphs spell it: they stay small that way."""
    for long, brief in _SHORT:
        name = name.replace(long, brief)
    return name
