"""Latency beside baselines, and where the packed engine's time goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .charts import Bar, bars, key, stack
from .collect import Report
from .markup import Markup, details, element, facts, note, table

_BASELINES = {
    "packed": "Packed, this project", "torch": "PyTorch", "onnxruntime": "ONNX Runtime",
    "onnxruntime-minus-sign": "ONNX Runtime without Sign", "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bf16"}


def name_of(baseline: str) -> str:
    return _BASELINES.get(baseline, baseline)


def speed(report: Report) -> list[Any]:
    """Latency beside baselines, and where it goes."""
    bench = report.bench
    assert bench is not None
    packed = bench["measured"][0]
    height, width = bench["size"]
    least = packed["median_seconds"] * (1 - bench["binary_share"])
    rooftop = bench["profile"]["roofline"]["bound"]
    rows = [Bar(name_of(one["name"]), one["median_seconds"], _ms(one["median_seconds"]),
                _spread(one), "ours" if one is packed else "other",
                (min(one["seconds"]), max(one["seconds"]))) for one in bench["measured"]]
    rows[1:1] = [
        Bar("Ceiling", least, _ms(least), "if binary layers took no time", "bound"),
        Bar("Roofline", rooftop, _ms(rooftop), "at this machine's measured rates", "bound")]
    found: list[Any] = [
        element("p", f"One step at {height}\u00d7{width}, {_threads(bench['threads'])}, median of "
                     f"{bench['rounds']} interleaved rounds in one process. Baselines are the same "
                     "network with its binary weights folded to float convolutions.",
                class_="lead"),
        *([note(_sentence("; ".join(bench["warnings"])), bad=True)] if bench["warnings"] else []),
        bars("Time of one step", rows),
        element("p", "Without Sign, an operator that is slow in ONNX Runtime is left out, which "
                     "flatters it.", class_="small")
        if any("minus-sign" in one["name"] for one in bench["measured"]) else None,
        key(("ours", "packed"), ("other", "baselines"), ("bound", "bounds")),
        details("Latency as a table", _latency(bench), facts(
            (name_of(one["name"]), one["description"]) for one in bench["measured"])),
    ]
    if bench["unavailable"]:
        found.append(note("Not measured: " + "; ".join(
            f"{name_of(name)}: {reason}" for name, reason in bench["unavailable"].items())))
    return found + _profile(bench)


def _latency(bench: Mapping[str, Any]) -> Markup:
    rows = []
    for one in bench["measured"]:
        ratio = one["ratio"]
        rows.append((
            name_of(one["name"]), f"{1e3 * one['median_seconds']:.1f}",
            f"{1e3 * min(one['seconds']):.1f}\u2013{1e3 * max(one['seconds']):.1f}",
            "" if ratio is None else f"{ratio[0]:.2f}",
            "" if ratio is None else f"{ratio[1]:.2f}\u2013{ratio[2]:.2f}",
            "" if one["ceiling"] is None else f"{one['ceiling']:.2f}",
            f"{one['image_seconds']:.2f}", f"{one['load_seconds']:.2f}",
            f"{one['first_run_seconds']:.2f}",
            "" if one["snr"] is None else f"{float(one['snr']):.0f}"))
    return table(f"An image takes {bench['steps']} steps; its time is computed from a step's",
                 ("", "step, ms", "least to most", "packed is faster by", "least to most",
                  "at most", "image, s", "load, s", "first run, s", "agrees, dB"), rows)


def _profile(bench: Mapping[str, Any]) -> list[Any]:
    roof, parts = bench["profile"]["roofline"], bench["profile"]["parts"]
    total = sum(parts.values()) or 1.0
    rates = roof["rates"]
    bounds = [(name, *_bounded(row)) for name, row in roof["parts"].items()]
    operators = [(name, roof["part"][name], *_bounded(row))
                 for name, row in roof["operators"].items()]
    return [
        element("h3", "Where the packed engine's time goes"),
        stack("Share of a step's kernel time", [
            (name, seconds / total, f"{100 * seconds / total:.0f} %")
            for name, seconds in parts.items()]),
        bars("Time of each part beside its bound", [
            Bar(name, row["seconds"], _ms(row["seconds"]),
                f"bound {_ms(row['bound'])}" if row["bound"] else "no bound known", "ours",
                mark=row["bound"] or None) for name, row in roof["parts"].items()]),
        key(("ours", "measured, profiled"), ("mark", "the greater of arithmetic and memory")),
        element("p", f"Rates measured here: float32 {rates['float'] / 1e9:.0f} GMAC/s, bfloat16 "
                     f"{rates['bf16'] / 1e9:.0f}, binary {rates['packed'] / 1e9:.0f}, memory "
                     f"{rates['memory'] / 1e9:.0f} GB/s. Winograd's convolutions multiply less "
                     "than is counted, and maps in a cache are read faster.", class_="small"),
        details("Parts and operators as tables", table(
            "Parts of a step, ms", ("part", "time", "arithmetic", "memory", "bound",
                                    "time / bound"), bounds), table(
            "Operators of a step, ms", ("operator", "part", "time", "arithmetic", "memory",
                                        "bound", "time / bound"), operators, words=(0, 1)))]


def _bounded(row: Mapping[str, float]) -> tuple[str, ...]:
    times = f"{row['seconds'] / row['bound']:.2f}" if row["bound"] else "\u2013"
    return (*(f"{1e3 * row[name]:.2f}" for name in ("seconds", "arithmetic", "memory", "bound")),
            times)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _spread(one: Mapping[str, Any]) -> str:
    ratio = one["ratio"]
    low, high = (1e3 * pick(one["seconds"]) for pick in (min, max))
    places = 1 if high < 100 else 0
    spread = f"{low:.{places}f} to {high:.{places}f} ms"
    return spread if ratio is None else f"{ratio[0]:.1f}\u00d7 packed, {spread}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
