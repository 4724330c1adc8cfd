"""HTML elements whose text is escaped unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 300  # characters of one text; a manifest may hold megabytes
MOST_ROWS = 1500
_VOID = {"img", "input", "meta", "br", "link"}


class Markup(str):
    """Text that is HTML."""


def plain(value: Any, limit: int = LONGEST) -> str:
    """Text without characters that steer a display (also those that turn its direction)."""
    text = str(value)
    cut = text[:limit - 1] + "\u2026" if len(text) > limit else text
    return "".join(c if c.isprintable() else "?" for c in cut)


def element(tag: str, /, *children: Any, **attributes: Any) -> Markup:
    """``<tag ...>children</tag>``.

    Children are markup, text to be escaped, None, or iterables of these. Attributes: a trailing
    underscore is dropped, others become hyphens; None and False are left out, True has no value.
    """
    parts = [tag]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            text = value if isinstance(value, Markup) else html.escape(plain(value), quote=True)
            parts.append(f'{key}="{text}"')
    start = f"<{' '.join(parts)}>"
    return Markup(start if tag in _VOID else f"{start}{join(children)}</{tag}>")


def join(children: Iterable[Any], between: str = "") -> Markup:
    """The children's HTML, one after the other."""
    found = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            found.append(child)
        elif isinstance(child, (list, tuple)):
            found.append(join(child))
        else:
            found.append(Markup(html.escape(plain(child), quote=True)))
    return Markup(between.join(found))


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Any]],
          words: Sequence[int] = (0,)) -> Markup:
    """A table that scrolls by itself where it is too wide; its first column heads the rows.

    ``words``: the columns of text; the others are numbers, aligned on the right.
    """
    def cell(column: int, value: Any, kind: str) -> Markup:
        scope = None if kind == "td" else "row" if kind == "th" else "col"
        return element("td" if kind == "td" else "th", value, scope=scope,
                       class_=None if column in words else "n")

    left = len(rows) - MOST_ROWS
    body = [element("tr", *(cell(column, value, "td" if column else "th")
                            for column, value in enumerate(row))) for row in rows[:MOST_ROWS]]
    if left > 0:
        body.append(element("tr", element("td", f"{left} more rows are not shown",
                                          colspan=len(headings))))
    return element(
        "div", element(
            "table", element("caption", element("span", caption)),
            element("thead", element("tr", *(cell(column, value, "head")
                                             for column, value in enumerate(headings)))),
            element("tbody", body)),
        class_="scroll", tabindex="0", role="region", aria_label=caption)


def details(summary: str, *children: Any) -> Markup:
    """Something that is there for those who ask."""
    return element("details", element("summary", summary), *children)


def facts(rows: Iterable[tuple[str, Any]]) -> Markup:
    """Names and what they are."""
    return element("dl", *(element("div", element("dt", name), element("dd", value))
                           for name, value in rows), class_="facts")


def note(*children: Any, bad: bool = False) -> Markup:
    return element("p", *children, class_="note bad" if bad else "note")
