"""Waiting for something to happen, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

# Only what hangs takes so long: on a busy machine a build or a run may take many times its own.
HANG_SECONDS = 1800


def wait_until(happened: Callable[[], object]) -> None:
    """Returns when ``happened()`` is true; fails where it never is."""
    deadline = time.monotonic() + HANG_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)
