"""How equal the bundle is to its checkpoint: verdicts, steps, and every layer's sign flips."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from ..proof.check.statistics import CLEAN_SNR
from .charts import Bar, Column, bars, columns, key
from .collect import Report
from .markup import Markup, details, element, facts, note, table

_TOP_SNR = 150  # dB, the most a chart shows: float32 rounding alone leaves 110 to 140


def parity(report: Report) -> list[Any]:
    """Everything that ``bidiff-deploy check`` found."""
    from ..proof.check.result import CheckResult

    assert report.parity is not None
    result = CheckResult.from_dict(report.parity)
    wrong = result.failures
    found: list[Any] = [
        element("p", element("strong", "Pass." if result else "Fail."),
                f" {len(result.verdicts) - len(wrong)} of {len(result.verdicts)} checks hold. Both "
                "sides were fed the same inputs, at every layer and step.",
                class_="verdict pass" if result else "verdict fail"),
        facts([("engine", result.engine), ("reference", result.reference),
               ("network's input", f"{result.size[0]}\u00d7{result.size[1]}")])]
    if wrong:
        found.append(element("ul", *(element("li", f"{one.what} {one.name}: {one.reason}")
                                     for one in wrong[:20]), class_="bad"))
    found += [_summary(result), *_steps(result), *_layers(result)]
    found += _loops(result)
    found += [note(line) for line in result.notes]
    return found


def _summary(result: Any) -> Markup:
    rows = []
    bounds = {what: decibel(min((one.bound for one in some), default=math.inf)) for what, some in (
        ("step", result.steps), ("loop", result.loops),
        ("operator", [one for one in result.operators if not one.exact]))}
    for what, plural, held in (
            ("layer", "binary layers", "integers equal, output within float32 rounding"),
            ("segment", "full-precision parts", f"at least {decibel(CLEAN_SNR)}"),
            ("operator", "fused operators", f"binary: every bit; others at least "
                                            f"{bounds['operator']}"),
            ("step", "steps", f"at least {bounds['step']}, see below"),
            ("loop", "whole images", f"at least {bounds['loop']}, PSNR-Y")):
        verdicts = [one for one in result.verdicts if one.what == what]
        if verdicts:
            passed = sum(one.passed for one in verdicts)
            rows.append((plural, held, f"{passed} of {len(verdicts)}", _worst(result, what)))
    return table("What was compared", ("part", "held to", "pass", "worst"), rows, words=(0, 1))


def _worst(result: Any, what: str) -> str:
    if what == "layer":
        wrong = sum(layer.wrong_sums for layer in result.layers)
        return f"{wrong} of {sum(layer.sums for layer in result.layers):,} sums wrong"
    values = {"segment": [part.snr for part in result.segments],
              "operator": [one.snr for one in result.operators],
              "step": [step.engine.snr for step in result.steps],
              "loop": [loop.psnr for loop in result.loops if loop.psnr is not None]}[what]
    return decibel(min(values, default=math.inf)) if values else "\u2013"


def _steps(result: Any) -> list[Any]:
    rows = [Bar(f"t = {step.timestep}", _finite(step.engine.snr), decibel(step.engine.snr),
                f"floor {decibel(step.floor.snr)}", "ours", mark=_finite(step.floor.snr))
            for step in result.steps]
    verdicts = {one.name: one for one in result.verdicts if one.what == "step"}
    return [
        element("h3", "Steps against their floor"),
        element("p", "Signal to noise of the predicted noise. The floor is the reference against "
                     "itself, in another memory layout or with float32 rounding's noise.",
                class_="lead"),
        bars("Signal to noise of each step", rows),
        key(("ours", "the engine against the reference"), ("mark", "the floor")),
        details("The steps as a table", table(
            "Steps", ("time step", "SNR", "bound", "floor", "flips", "floor's flips", "verdict"),
            [(str(step.timestep), decibel(step.engine.snr), decibel(step.bound),
              decibel(step.floor.snr), f"{step.engine.flips:,}", f"{step.floor.flips:,}",
              verdicts[str(step.timestep)].reason) for step in result.steps], words=(0, 6)))]


def _layers(result: Any) -> list[Any]:
    layers = _by_layer(result)
    if not layers:
        return []
    least = -math.log10(max(one["signs"] for one in layers.values()))
    bottom = math.floor(least)

    def height(share: float) -> float | None:
        return None if share <= 0 else (math.log10(share) - bottom) / -bottom

    shares = [(name, one["flips"] / one["signs"], one["floor"] / one["signs"])
              for name, one in layers.items()]
    highest = max(_finite(one[which]) for one in layers.values()
                  for which in ("output", "floor_output"))
    top = next(level for level in (30, 50, 100, _TOP_SNR) if level >= highest)
    lines = [((power - bottom) / -bottom, _power(power))
             for power in range(bottom + 1, 1, 2 if -bottom > 5 else 1)]
    return [
        element("h3", "Sign flips by layer"),
        element("p", "The share of a layer's input signs that differ from the reference's, over "
                     "all steps that were checked; no column: none.", class_="lead"),
        columns("Share of flipped signs by layer, logarithmic", [
            Column(f"{name}: {_ppm(ours)}, floor {_ppm(floor)}", height(ours), height(floor))
            for name, ours, floor in shares], lines),
        element("p", f"{len(layers)} binary layers in order of execution", class_="axis"),
        key(("ours", "the engine"), ("mark", "the floor")),
        element("h3", "Signal to noise by layer"),
        element("p", "After each binary layer, the least of all steps. Flips in front of a layer "
                     "are what takes it down.", class_="lead"),
        columns("Signal to noise after each layer, dB", [
            Column(f"{name}: {decibel(one['output'])}, floor {decibel(one['floor_output'])}",
                   _finite(one["output"]) / top, _finite(one["floor_output"]) / top)
            for name, one in layers.items()],
            [(level / top, f"{level} dB") for level in range(0, top + 1, 50 if top > 50 else 10)]),
        element("p", f"{len(layers)} binary layers in order of execution", class_="axis"),
        key(("ours", "the engine"), ("mark", "the floor")),
        details("Layers as a table", table(
            "Binary layers: signs over all steps, decibels of the worst step",
            ("layer", "signs", "flips", "floor's flips", "SNR before", "SNR after",
             "floor's SNR after"),
            [(name, f"{one['signs']:,}", f"{one['flips']:,}", f"{one['floor']:,}",
              decibel(one["input"]), decibel(one["output"]), decibel(one["floor_output"]))
             for name, one in layers.items()])),
        details("Full-precision parts and fused operators as tables", _parts(result),
                _operators(result))]


def _by_layer(result: Any) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(lambda: {
        "signs": 0, "flips": 0, "floor": 0, "input": math.inf, "output": math.inf,
        "floor_output": math.inf})
    for step in result.steps:
        for layer in step.engine.layers:
            row = found[layer.layer]
            row["signs"] += layer.signs
            row["flips"] += layer.flips
            row["input"] = min(row["input"], layer.input_snr)
            row["output"] = min(row["output"], layer.output_snr)
        for layer in step.floor.layers:
            row = found[layer.layer]
            row["floor"] += layer.flips
            row["floor_output"] = min(row["floor_output"], layer.output_snr)
    return {name: row for name, row in found.items() if row["signs"]}


def _parts(result: Any) -> Markup:
    least: dict[str, float] = {}
    for part in result.segments:
        least[part.end] = min(least.get(part.end, math.inf), part.snr)
    return table("Full-precision parts, fed the reference's layers: the worst step",
                 ("leads to", "SNR"), [(name, decibel(value)) for name, value in least.items()])


def _operators(result: Any) -> Markup:
    worst: dict[str, Any] = {}
    for one in result.operators:
        if one.operator not in worst or one.snr < worst[one.operator].snr:
            worst[one.operator] = one
    return table("Fused operators, against the layers that they fuse: the worst step",
                 ("gives", "operator", "SNR", "held to"),
                 [(name, one.kind, decibel(one.snr),
                   "every bit" if one.exact else decibel(one.bound))
                  for name, one in worst.items()], words=(0, 1))


def _loops(result: Any) -> list[Any]:
    rows = [(loop.image, decibel(loop.psnr), decibel(loop.floor),
             *(decibel((loop.truth or {}).get(name)) for name in
               ("bicubic", "reference", "engine")), loop.reason) for loop in result.loops]
    if not rows:
        return []
    return [element("h3", "Whole images"),
            table("PSNR-Y, dB; the last three of the image's middle against its original",
                  ("image", "engine to reference", "floor", "bicubic", "reference", "engine",
                   "verdict"), rows, words=(0, 6))]


def decibel(value: float | None) -> str:
    """``46.6 dB``, ``equal`` or a dash."""
    if value is None or math.isnan(value):
        return "\u2013"
    return "equal" if value == math.inf else "none" if value == -math.inf else f"{value:.1f} dB"


def _finite(value: float) -> float:
    return min(max(value, 0.0), float(_TOP_SNR)) if not math.isnan(value) else 0.0


def _power(power: int) -> str:
    return {0: "all", -1: "10 %", -2: "1 %", -3: "0.1 %", -6: "1 ppm"}.get(
        power, f"10{str(power).translate(_SUPERSCRIPT)}")


_SUPERSCRIPT = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076"
                                            "\u2077\u2078\u2079")


def _ppm(share: float) -> str:
    return "none" if not share else f"{1e6 * share:.3g} ppm"
