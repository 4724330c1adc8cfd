"""What several commands do alike."""

from __future__ import annotations

from typing import Iterable

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
