"""Charts of inline SVG that grow with the page: positions are percentages, words are HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .markup import Markup, element


@dataclass(frozen=True)
class Bar:
    """One row of a chart.

    shown   the value in words, with its unit
    note    small print below the label
    kind    ours, other or bound: which colour
    spread  least and greatest of what was measured
    mark    where a bound lies
    """

    label: str
    value: float
    shown: str
    note: str = ""
    kind: str = "other"
    spread: tuple[float, float] | None = None
    mark: float | None = None


def bars(title: str, rows: Sequence[Bar]) -> Markup:
    """Horizontal bars from zero, each with label and value beside it."""
    most = max((value for row in rows for value in (row.value, row.mark or 0.0, *(row.spread or ()))
                if math.isfinite(value)), default=0.0) or 1.0
    return element("ul", *(_row(row, most) for row in rows), class_="bars", aria_label=title)


def _row(row: Bar, most: float) -> Markup:
    length = 100 * min(max(row.value, 0.0), most) / most if math.isfinite(row.value) else 100.0
    shapes = [_rect(0, 2, 100, 10, "track"), _rect(0, 2, max(length, 0.3), 10, row.kind)]
    spoken = f"{row.label}: {row.shown}"
    if row.spread:
        low, high = (100 * value / most for value in row.spread)
        shapes.append(element("line", x1=_percent(low), x2=_percent(high), y1="7", y2="7",
                              class_="spread"))
        spoken += f"; {row.note}" if row.note else ""
    if row.mark is not None:
        at = _percent(100 * row.mark / most)
        shapes += [element("line", x1=at, x2=at, y1="0", y2="14", class_=kind)
                   for kind in ("halo", "mark")]
    return element(
        "li",
        element("span", row.label, element("small", row.note) if row.note else None,
                class_="label"),
        element("svg", *shapes, role="img", aria_label=spoken, height="14", width="100%"),
        element("span", row.shown, class_="value"))


def stack(title: str, parts: Sequence[tuple[str, float, str]]) -> Markup:
    """One bar of several parts, (label, share of 1, value in words), and a legend."""
    shapes, legend, at = [], [], 0.0
    for index, (label, share, shown) in enumerate(parts):
        tone = f"tone{index % 6}"
        shapes.append(_rect(100 * at, 0, max(100 * share - 0.25, 0.1), 22, tone))
        legend.append(element("li", element("svg", _rect(0, 0, 100, 10, tone), width="10",
                                            height="10", aria_hidden="true"),
                              element("span", label), element("b", shown)))
        at += share
    spoken = "; ".join(f"{label} {shown}" for label, _, shown in parts)
    return Markup(element("svg", *shapes, role="img", aria_label=f"{title}: {spoken}",
                          class_="stack", width="100%", height="22")
                  + element("ul", legend, class_="legend"))


@dataclass(frozen=True)
class Column:
    """One column: its label, its height and a tick's as shares of the chart's, None for none."""

    label: str
    height: float | None
    tick: float | None = None


def columns(title: str, items: Sequence[Column], lines: Sequence[tuple[float, str]]) -> Markup:
    """Columns side by side, such as one for each layer; ``lines`` are (height, label)."""
    step = 100 / max(len(items), 1)
    shapes: list[Any] = []
    for height, _ in lines:
        at = _percent(100 * (1 - height))
        shapes.append(element("line", x1="0", x2="100%", y1=at, y2=at, class_="grid"))
    for index, item in enumerate(items):
        if item.height is not None:
            height = 100 * min(max(item.height, 0.004), 1)
            shapes.append(element("rect", element("title", item.label),
                                  x=_percent(step * (index + 0.15)), y=_percent(100 - height),
                                  width=_percent(step * 0.7), height=_percent(height),
                                  class_="ours"))
        if item.tick is not None:
            at = _percent(100 * (1 - min(max(item.tick, 0.0), 1)))
            shapes.append(element("line", x1=_percent(step * (index + 0.02)),
                                  x2=_percent(step * (index + 0.98)), y1=at, y2=at,
                                  class_="mark"))
    scale = element("div", *(element("svg", element(
        "text", label, x="100%", y=_percent(100 * (1 - height)), text_anchor="end",
        dominant_baseline="middle"), width="100%", height="100%") for height, label in lines),
        class_="scale", aria_hidden="true")
    return element("div", scale, element("svg", *shapes, role="img", aria_label=title,
                                         width="100%", height="100%", class_="plot"),
                   class_="columns")


def key(*entries: tuple[str, str]) -> Markup:
    """What colours mean: (kind, words)."""
    return element("ul", *(element(
        "li", element("svg", element("line", x1="0", x2="14", y1="5", y2="5", class_="mark")
                      if kind == "mark" else _rect(0, 0, 100, 10, kind),
                      width="14", height="10", aria_hidden="true"), element("span", words))
        for kind, words in entries), class_="legend")


def _rect(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    return element("rect", x=_percent(x), y=f"{y:g}", width=_percent(width), height=f"{height:g}",
                   rx="2", class_=kind)


def _percent(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"
