"""The whole page: head, summary, sections; one string that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any

from ..errors import UsageError
from . import sections_figures as figures
from .collect import Report
from .markup import Markup, element, note
from .sections_parity import parity
from .sections_pictures import loop, pictures
from .sections_speed import name_of, speed

MAX_BYTES = 15_000_000

# Anchor, name, heading, what ``missing`` calls it, content.
_SECTIONS: tuple[tuple[str, str, str, str, Callable[[Report], list[Any]]], ...] = (
    ("pictures", "Pictures", "Pictures", "images", pictures),
    ("loop", "Loop", "The loop, step by step", "strip", loop),
    ("speed", "Latency", "Latency", "bench", speed),
    ("parity", "Parity", "Parity with the checkpoint", "parity", parity),
    ("memory", "Memory", "Memory and size", "", figures.memory),
    ("packed", "Packing", "What is packed, and what is not", "", figures.packed),
    ("bundle", "Bundle", "The bundle", "", figures.bundle),
    ("machine", "Machine", "Machine and versions", "", figures.machine),
)


def render(report: Report) -> str:
    """The page. Raises UsageError in the unlikely case that it is larger than ``MAX_BYTES``."""
    style, script = (_read(name) for name in ("page.css", "page.js"))
    name = _name(report)
    head = element(
        "head", element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Markup(
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
            f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'")),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{name}: report"), element("style", style), element("script", script))
    navigation = element("nav", element("ul", *(
        element("li", element("a", short, href=f"#{anchor}"))
        for anchor, short, *_ in _SECTIONS)), aria_label="Sections")
    body = element(
        "body", element("a", "Skip to the sections", href="#pictures", class_="skip"),
        _header(report, name), navigation,
        element("main", *(_section(report, *section) for section in _SECTIONS)),
        element("footer", element("p", f"Made by bidiff_deploy {report.doctor['tool']} on "
                                       f"{report.created}. This page holds all its data, and "
                                       "loads nothing.")))
    text = f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"
    if len(text.encode()) > MAX_BYTES:
        raise UsageError(f"the page would have {len(text.encode()) / 1e6:.1f} MB, more than "
                         f"{MAX_BYTES / 1e6:.0f}; give fewer images")
    return text


def _section(report: Report, anchor: str, _: str, title: str, missing: str,
             content: Callable[[Report], list[Any]]) -> Markup:
    reason = report.missing.get(missing)
    inside = [note(f"Not on this page: {reason}.")] if reason else content(report)
    return element("section", element("h2", title, id=f"{anchor}-title"), inside, id=anchor,
                   aria_labelledby=f"{anchor}-title")


def _header(report: Report, name: str) -> Markup:
    found = report.inspection
    steps = len(found["steps"])
    sentence = (f"Super-resolution \u00d7{found['scale']} in {steps} diffusion "
                f"step{'s' if steps > 1 else ''}, binary convolutions packed to bits. On "
                f"{report.doctor['cpu']['model']}, {report.created}.")
    tiles = [element("li", element("b", value), element("span", what), element("small", more))
             for value, what, more in _tiles(report)]
    return element(
        "header",
        element("div", element("p", "bidiff_deploy report", class_="eyebrow"),
                element("button", "Theme: auto", type="button", id="theme", class_="js-only"),
                class_="top"),
        element("h1", name), element("p", sentence, class_="lead"),
        *(note(line, bad=True) for line in report.failures),
        element("ul", tiles, class_="tiles"))


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """The figures that matter most: value, what it is, beside what."""
    found = []
    if report.bench is not None:
        others = {one["name"]: one for one in report.bench["measured"][1:]}
        chosen = next((others[name] for name in ("onnxruntime", "openvino", "torch")
                       if name in others), None)
        packed = report.bench["measured"][0]
        if chosen is not None:
            median, least, most = chosen["ratio"]
            found.append((f"{median:.1f}\u00d7", f"as fast as {name_of(chosen['name'])}",
                          f"{least:.1f} to {most:.1f}; a step {1e3 * packed['median_seconds']:.0f} "
                          f"ms, not {1e3 * chosen['median_seconds']:.0f}"))
    total = report.inspection["total"]
    found.append((f"{total['checkpoint'] / max(total['disk'], 1):.1f}\u00d7",
                  "smaller than float32", f"{figures.size(total['disk'])}, not "
                                          f"{figures.size(total['checkpoint'])}"))
    gains = [(one.scores["packed"]["psnr_y"], one.scores["bicubic"]["psnr_y"])
             for one in report.pictures if one.scores]
    gains = [pair for pair in gains if None not in pair]
    if gains:
        ours, theirs = (sum(values) / len(values) for values in zip(*gains))
        found.append((f"{ours - theirs:+.2f} dB".replace("-", "\u2212"), "PSNR-Y over bicubic",
                      f"{ours:.2f}, not {theirs:.2f} dB; {len(gains)} "
                      f"image{'s' if len(gains) > 1 else ''}"))
    if report.parity is not None:
        verdicts = report.parity["verdicts"]
        passed = sum(one["passed"] for one in verdicts)
        found.append((f"{passed} of {len(verdicts)}", "parity checks pass",
                      "against the checkpoint in torch"))
    return found


def _name(report: Report) -> str:
    path = str(report.inspection["bundle"]).rstrip("/\\")
    return path.replace("\\", "/").rsplit("/", 1)[-1] or path


def _read(name: str) -> Markup:
    return Markup(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

