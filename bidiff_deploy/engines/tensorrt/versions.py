"""Versions of TensorRT."""

from __future__ import annotations

import re

__all__ = ["MIN_RTX", "MIN_VERSION", "numbers"]

MIN_VERSION = (8, 5)
MIN_RTX = (1, 7)  # of TensorRT-RTX, which counts its own versions; none before it was tried


def numbers(version: str) -> tuple[int, ...]:
    """The first four numbers of a version text such as ``10.3.0.26`` or ``9.3.0.post12.dev1``."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])
