"""What several commands do alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import click

from ..errors import UsageError


def parse_timesteps(text: str | None) -> list[int] | None:
    """``"1960,1920,0"`` as numbers; None stays None. Raises UsageError."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--timesteps {text!r} must be whole numbers with commas between them, "
                         "such as 1960,1920,0") from None


def print_assumptions(assumptions: Iterable[str]) -> None:
    """One line each on stderr."""
    for line in assumptions:
        click.echo(f"assumed: {line}", err=True)


def parse_bytes(text: str, option: str = "--memory") -> int:
    """``2GB``, ``512MiB``, ``1.5G`` or ``1000000`` as bytes. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kmgt])(i?))?b?", text,
                         re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{option} {text!r} must be a number of bytes with a unit, such as 2GB, "
                         "512MiB or 800k")
    power = " kmgt".index((match[2] or " ").lower())
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def parse_start(text: str) -> int | None:
    """``--start``: a timestep, or ``none`` as None. Raises UsageError."""
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--start {text!r} must be a timestep or none") from None


def tile_options(tile: str, memory: str | None, overlap: int | None = None) -> dict[str, Any]:
    """``--tile``, ``--memory`` and ``--overlap`` as options of ``Engine.upscale_image``. Raises
    UsageError."""
    size: int | str | None = None if tile.lower() == "none" else tile.lower()
    if size not in (None, "auto"):
        try:
            size = int(tile)
        except ValueError:
            raise UsageError(f"--tile {tile!r} must be auto, none or output pixels a side") \
                from None
    return {"tile": size, "memory": None if memory is None else parse_bytes(memory),
            "overlap": overlap}
