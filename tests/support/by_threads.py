"""Calls from several threads at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def by_threads(call: Callable[[int], np.ndarray], values: Sequence[int]) -> np.ndarray:
    """``call(value)`` of each value by a thread of its own, joined in their order."""
    with ThreadPoolExecutor(len(values)) as threads:
        return np.concatenate(list(threads.map(call, values)))
