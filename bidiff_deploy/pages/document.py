"""The Jinja environment of pages: values are cut and escaped, styles and scripts are hashed."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["MAX_CHARS", "asset", "make_environment", "plain", "product", "source_hash"]

MAX_CHARS = 300  # characters of one text; a manifest may hold megabytes


def make_environment(*packages: str) -> Environment:
    """The templates of ``packages`` and of this one: every value is cut by ``plain`` and escaped,
    an unknown name is an error."""
    loaders = [PackageLoader(name) for name in (*packages, __package__)]
    made = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined,
                       finalize=plain, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(product=product, source_hash=source_hash)
    return made


def asset(*names: str, package: str = __package__) -> Markup:
    """The text of style sheets or scripts of a package, one after the other."""
    folder = resources.files(package)
    return Markup("\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names))


def plain(value: Any) -> Any:
    """Every value before it is escaped: HTML as it is, nothing for None, else its text, cut, and
    without characters that control a display, such as those that change its direction."""
    if isinstance(value, Markup):
        return value
    text = "" if value is None else str(value)
    cut = text[:MAX_CHARS - 1] + "\u2026" if len(text) > MAX_CHARS else text
    return "".join(c if c.isprintable() else "?" for c in cut)


def product(sides: Any) -> str:
    """``3x3x64`` with the sign of multiplication; what is not known is a question mark."""
    return "\u00d7".join("?" if side is None else str(side) for side in sides)


def source_hash(text: str) -> str:
    """A style or script by its hash, as a Content-Security-Policy allows it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
