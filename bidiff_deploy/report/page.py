"""The whole page: one string that needs nothing else."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment

from ..errors import UsageError
from ..pages.document import asset, make_environment
from .collect import Report
from .filters import FILTERS, baseline, duration, size
from .parity import parity

MAX_BYTES = 15_000_000
MAX_ROWS = 1500  # of a table

# Anchor, which is also its template's name; name; heading; what ``missing`` calls it.
_SECTIONS = (
    ("pictures", "Pictures", "Pictures", "images"),
    ("loop", "Loop", "The loop, step by step", "strip"),
    ("speed", "Latency", "Latency", "bench"),
    ("parity", "Parity", "Parity with the checkpoint", "parity"),
    ("memory", "Memory", "Memory and size", ""),
    ("packed", "Packing", "What is packed, and what is not", ""),
    ("bundle", "Bundle", "The bundle", ""),
    ("machine", "Machine", "Machine and versions", ""),
)
_KINDS = (("bicubic", "Bicubic"), ("original", "Original"), ("packed", "Packed 1-bit"))


@cache
def environment() -> Environment:
    """The templates, with what values need."""
    made = make_environment(__package__)
    made.filters.update(FILTERS)
    made.globals.update(most_rows=MAX_ROWS, parity=parity)
    return made


def render(report: Report) -> str:
    """The page. Raises UsageError in the unlikely case that it is larger than ``MAX_BYTES``."""
    text = environment().get_template("page.html").render(
        report=report, inspection=report.inspection, doctor=report.doctor, name=_name(report),
        tiles=_tiles(report), sections=_SECTIONS, kinds=_kinds(report),
        style=asset("theme.css", "slider.css") + asset("page.css", package=__package__),
        script=asset("theme.js", "slider.js") + asset("page.js", package=__package__))
    if len(text.encode()) > MAX_BYTES:
        raise UsageError(f"the page would have {len(text.encode()) / 1e6:.1f} MB, more than "
                         f"{MAX_BYTES / 1e6:.0f}; give fewer images")
    return text


def _kinds(report: Report) -> tuple[tuple[str, str], ...]:
    """What each picture is called; a network without binary layers is not packed."""
    if "packed" in report.inspection["macs"]:
        return _KINDS
    return (*_KINDS[:-1], ("packed", "The network"))


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """The two to four figures that matter most: value, what it is, what it is compared with."""
    found = []
    if report.bench is not None:
        others = {one["name"]: one for one in report.bench["measured"][1:]}
        chosen = next((others[name] for name in ("onnxruntime", "openvino", "torch")
                       if name in others), None)
        packed = report.bench["measured"][0]
        if chosen is not None:
            median, least, most = chosen["ratio"]
            mark, why = ("~", "; measured on a busy machine") if report.bench["busy"] else ("", "")
            found.append((f"{mark}{median:.1f}\u00d7", f"as fast as {baseline(chosen['name'])}",
                          f"{least:.1f} to {most:.1f}; a step {1e3 * packed['median_seconds']:.0f} "
                          f"ms, not {1e3 * chosen['median_seconds']:.0f}{why}"))
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
    if report.pictures:
        one = report.pictures[0]
        found.append((duration(one.seconds), f"for {one.name}",
                      f"{one.low_width}\u00d7{one.low_height} to {one.width}\u00d7{one.height} "
                      f"pixels"))
    total, macs = report.inspection["total"], report.inspection["macs"]
    packed_macs = macs.get("packed", 0)
    if not packed_macs:
        return found[:4]
    found.append((f"{total['checkpoint'] / max(total['disk'], 1):.1f}\u00d7",
                  "smaller than float32",
                  f"{size(total['disk'])}, not {size(total['checkpoint'])}"))
    found.append((f"{100 * packed_macs / max(sum(macs.values()), 1):.0f} %",
                  "of the work is on bits", "multiply-accumulates of a step"))
    return found[:4]


def _name(report: Report) -> str:
    path = str(report.inspection["bundle"]).rstrip("/\\")
    return path.replace("\\", "/").rsplit("/", 1)[-1] or path

