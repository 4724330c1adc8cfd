"""JSON that files bring along as metadata: plain values of bounded size."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["MAX_JSON_CHARS", "load_json"]

MAX_JSON_CHARS = 1 << 22


def load_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for other texts, for NaN and infinities, for deep
    nesting and for more than MAX_JSON_CHARS."""
    if len(text) > MAX_JSON_CHARS:
        raise ValueError(f"it has more than {MAX_JSON_CHARS >> 20} MiB")
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value
