"""How the page words and draws values: the filters of its templates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..proof.inspect.text import human

TOP_SNR = 150  # dB, the most a chart shows: float32 rounding alone leaves 110 to 140

_BASELINES = {
    "packed": "Packed, this project", "torch": "PyTorch", "onnxruntime": "ONNX Runtime",
    "onnxruntime-minus-sign": "ONNX Runtime without Sign", "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bf16"}


def percent(value: float, most: float = 1.0, least: float = 0.0) -> str:
    """A position or length in a chart that ends at ``most``: from ``least`` to 100 percent."""
    share = 100 * value / most if math.isfinite(value) else 100.0
    return f"{min(max(share, least), 100.0):.3f}".rstrip("0").rstrip(".") + "%"


def greatest(values: Iterable[float]) -> float:
    """Where a chart of these values ends: the greatest finite one; 1 if none is above zero."""
    return max((value for value in values if math.isfinite(value)), default=0.0) or 1.0


def fixed(value: float | None, places: int, unit: str = "") -> str:
    return "\u2013" if value is None else f"{value:.{places}f}{unit}"


def grouped(value: int) -> str:
    """``1,234,567``"""
    return f"{value:,}"


def size(value: float | None) -> str:
    """``0.93 MB``, as disks are sold."""
    if value is None:
        return "unknown"
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor / 2:
            return f"{value / factor:.{2 if value < 10 * factor else 1}f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def noise(share: float) -> str:
    """A share of a latent's variance, in percent."""
    return f"{100 * share:.3g}" if share >= 1e-4 else "under 0.01"


def decibel(value: float | None) -> str:
    """``46.6 dB``, ``equal`` or a dash."""
    if value is None or math.isnan(value):
        return "\u2013"
    return "equal" if value == math.inf else "none" if value == -math.inf else f"{value:.1f} dB"


def capped(snr: float) -> float:
    """Decibels as a chart shows them, from 0 to ``TOP_SNR``."""
    return min(max(snr, 0.0), float(TOP_SNR)) if not math.isnan(snr) else 0.0


def baseline(name: str) -> str:
    """What a candidate of ``bench`` is called."""
    return _BASELINES.get(name, name)


def spread(one: Mapping[str, Any]) -> str:
    """The least and the greatest time of a candidate of ``bench``, and its ratio to ours."""
    low, high = (1e3 * pick(one["seconds"]) for pick in (min, max))
    places = 1 if high < 100 else 0
    times = f"{low:.{places}f} to {high:.{places}f} ms"
    return times if one["ratio"] is None else f"{one['ratio'][0]:.1f}\u00d7 packed, {times}"


FILTERS = {filter_.__name__: filter_ for filter_ in (
    percent, greatest, fixed, grouped, size, human, duration, noise, decibel, capped, baseline,
    spread)}
