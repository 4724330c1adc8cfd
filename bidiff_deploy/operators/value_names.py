"""Names of parameters and blocks in graphs."""

from __future__ import annotations

_SHORT = (("encoder.", "e"), ("middle.", "m"), ("decoder.", "d"), (".conv", ".c"),
          (".attention", ".a"), (".norm", ".n"))


def short(name: str) -> str:
    """The short name of a parameter or block in graphs, which keeps them small."""
    for long, brief in _SHORT:
        name = name.replace(long, brief)
    return name
