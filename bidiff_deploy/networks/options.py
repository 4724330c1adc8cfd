"""Options of networks as dataclasses: read from a mapping, with one wording of errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import whole_number
from ..errors import CheckpointError, listed, one_line

__all__ = ["check_whole_numbers", "options_from"]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Options = TypeVar("_Options", bound="DataclassInstance")


def options_from(cls: type[_Options], options: Mapping[str, Any], origin: str) -> _Options:
    """``cls(**options)`` of a dataclass ``cls``. Raises CheckpointError, which names ``origin``,
    for unknown names and for values that ``cls`` refuses."""
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = set(options) - known
    if unknown:
        raise CheckpointError(
            f"{origin}: unknown network option{'s' if len(unknown) > 1 else ''} "
            f"{listed(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return cls(**options)
    except (TypeError, ValueError, OverflowError, CheckpointError) as error:
        raise CheckpointError(f"{origin}: {one_line(error)}") from None


def check_whole_numbers(config: object, **limits: int) -> None:
    """Check that each field of a frozen dataclass named in ``limits`` is a whole number from 1 to
    its limit, and store it as an int. Raises CheckpointError."""
    for field, limit in limits.items():
        value = whole_number(f"network option {field}", getattr(config, field), 1, limit,
                             error=CheckpointError)
        object.__setattr__(config, field, value)
