"""Checks of values that users pass; each check has one wording."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import BidiffError, UsageError

__all__ = ["whole_number"]


def whole_number(name: str, value: Any, low: int, high: int | None = None, *, unit: str = "",
                 error: type[BidiffError] = UsageError) -> int:
    """``value`` as an int from ``low`` to ``high``; None: no upper limit.

    Takes ints and numpy integers, not bools. ``unit``: what is counted, such as "pixels". Raises
    ``error`` in a sentence that names ``name``, the value and the limits.
    """
    what = f"a whole number of {unit}" if unit else "a whole number"
    limits = f"at least {low}" if high is None else f"from {low} to {high}"
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise error(f"{name} is {value!r}; it must be {what}, {limits}") from None
    if number < low or (high is not None and number > high):
        raise error(f"{name} is {number}; it must be {what}, {limits}")
    return number
