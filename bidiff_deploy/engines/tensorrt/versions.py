"""Names and versions of TensorRT and TensorRT-RTX."""

from __future__ import annotations

import re

__all__ = ["CAPABILITIES", "MIN_RTX", "MIN_VERSION", "numbers", "product"]

MIN_VERSION = (8, 5)
MIN_RTX = (1, 7)  # of TensorRT-RTX, which counts its own versions; none before it was tried
# What TensorRT-RTX compiles for, 10 * major + minor.
CAPABILITIES = (75, 80, 86, 89, 120, 121)


def numbers(version: str) -> tuple[int, ...]:
    """The first four numbers of a version text such as ``10.3.0.26`` or ``9.3.0.post12.dev1``."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def product(rtx: bool) -> str:
    """The name of NVIDIA's product."""
    return "TensorRT-RTX" if rtx else "TensorRT"
