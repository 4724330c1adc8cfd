"""What the parity section shows of a check: worst cases, sums by layer, charts."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from .filters import TOP_SNR, capped, decibel, greatest

if TYPE_CHECKING:
    from ..proof.check.result import CheckResult

Chart = tuple[list[tuple[str, float | None, float | None]], list[tuple[float, str]]]
Layers = dict[str, dict[str, float]]


def parity(found: dict[str, Any]) -> dict[str, Any]:
    """What ``sections/parity.html`` shows of a check's JSON. ``flips`` and ``noise`` are the items
    and the lines of the macro ``columns``."""
    from ..proof.check.result import CheckResult

    result = CheckResult.from_dict(found)
    layers = _by_layer(result)
    segments: dict[str, Any] = {}
    for part in result.segments:
        if part.end not in segments or part.rounding > segments[part.end].rounding:
            segments[part.end] = part
    operators: dict[str, Any] = {}
    for one in result.operators:
        if one.operator not in operators or one.snr < operators[one.operator].snr:
            operators[one.operator] = one
    return {
        "result": result, "compared": _compared(result), "layers": layers,
        "best_step": greatest(capped(snr) for step in result.steps
                              for snr in [step.engine.snr, *([step.floor.snr] if step.floor
                                                             else [])]),
        "reasons": {one.name: one.reason for one in result.verdicts if one.what == "step"},
        "flips": _flips(layers) if layers else None, "noise": _noise(layers) if layers else None,
        "judged": all(step.differing is not None for step in result.steps),
        "segments": segments, "operators": list(operators.values())}


def _compared(result: CheckResult) -> list[dict[str, Any]]:
    """For each kind of part that was checked: what it is held to, how many pass, the worst."""
    bounds = {what: decibel(min((one.bound or 0.0 for one in some), default=math.inf))
              for what, some in (("step", result.steps), ("loop", result.loops), (
                  "operator", [one for one in result.operators if not one.exact]))}
    judged = all(step.differing is not None for step in result.steps)
    rows = []
    for what, plural, held in (
            ("layer", "binary layers", "integers equal, output within float32 rounding"),
            ("segment", "all parts", "floats within their rounding's bound, signs equal unless "
                                     "rounding decides them"),
            ("operator", "fused operators", f"binary: every bit; others at least "
                                            f"{bounds['operator']}"),
            ("step", "steps", "all parts right, and the engine's own run" if judged
             else f"at least {bounds['step']}, see below"),
            ("loop", "whole images", "by their steps" if judged
             else f"at least {bounds['loop']}, PSNR-Y")):
        verdicts = [one for one in result.verdicts if one.what == what]
        if verdicts:
            rows.append({"part": plural, "held": held, "total": len(verdicts),
                         "passed": sum(one.passed for one in verdicts),
                         "worst": _worst(result, what)})
    return rows


def _worst(result: CheckResult, what: str) -> str:
    if what == "layer":
        wrong = sum(layer.wrong_sums for layer in result.layers)
        return f"{wrong} of {sum(layer.sums for layer in result.layers):,} sums wrong"
    if what == "segment":
        worst = max((part.rounding for part in result.segments), default=0.0)
        return f"{worst:.4f} of the bound"
    values = {"operator": [one.snr for one in result.operators],
              "step": [step.engine.snr for step in result.steps],
              "loop": [loop.psnr for loop in result.loops if loop.psnr is not None]}[what]
    return decibel(min(values, default=math.inf)) if values else "\u2013"


def _by_layer(result: CheckResult) -> Layers:
    """For each layer signs and flips of all steps, and the decibels of the worst one."""
    found: Layers = defaultdict(lambda: {
        "signs": 0, "flips": 0, "undecidable": 0, "input": math.inf, "output": math.inf})
    for step in result.steps:
        for layer in step.engine.layers:
            row = found[layer.layer]
            row["signs"] += layer.signs
            row["flips"] += layer.flips
            row["undecidable"] += layer.undecidable
            row["input"] = min(row["input"], layer.input_snr)
            row["output"] = min(row["output"], layer.output_snr)
    return {name: row for name, row in found.items() if row["signs"]}


def _flips(layers: Layers) -> Chart:
    """Shares of flipped signs, logarithmic from one sign of the largest layer to all of them."""
    least = -math.log10(max(one["signs"] for one in layers.values()))
    bottom = math.floor(least)

    def height(share: float) -> float | None:
        return None if share <= 0 else (math.log10(share) - bottom) / -bottom

    shares = [(name, one["flips"] / one["signs"], one["undecidable"] / one["signs"])
              for name, one in layers.items()]
    return ([(f"{name}: {_ppm(ours)} flip, rounding decides {_ppm(open_ones)}", height(ours),
              height(open_ones)) for name, ours, open_ones in shares],
            [((power - bottom) / -bottom, _power(power))
             for power in range(bottom + 1, 1, 2 if -bottom > 5 else 1)])


def _noise(layers: Layers) -> Chart:
    """Decibels before and after each layer, up to the first round figure that holds them all."""
    highest = max(capped(one[which]) for one in layers.values() for which in ("input", "output"))
    top = next(level for level in (30, 50, 100, TOP_SNR) if level >= highest)
    return ([(f"{name}: {decibel(one['output'])}, its input {decibel(one['input'])}",
              capped(one["output"]) / top, capped(one["input"]) / top)
             for name, one in layers.items()],
            [(level / top, f"{level} dB") for level in range(0, top + 1, 50 if top > 50 else 10)])


def _power(power: int) -> str:
    return {0: "all", -1: "10 %", -2: "1 %", -3: "0.1 %", -6: "1 ppm"}.get(
        power, f"10{str(power).translate(_SUPERSCRIPT)}")


_SUPERSCRIPT = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076"
                                            "\u2077\u2078\u2079")


def _ppm(share: float) -> str:
    return "none" if not share else f"{1e6 * share:.3g} ppm"
