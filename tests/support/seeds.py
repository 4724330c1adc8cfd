"""Seeds of random cases: the same few each time, and many others in ``make soak``."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings
from hypothesis.internal.conjecture import providers

SEED = int(os.environ.get("BIDIFF_SOAK_SEED", "0"))
SOAK = SEED != 0  # set by tools/soak.py, which runs what is marked `soak` and all of Hypothesis

if not SOAK:
    # Hypothesis also draws constants of the source, for which each worker parses all of it.
    providers._get_local_constants = lambda: providers._local_constants


def examples(count: int, **options: Any) -> settings:
    """Settings of a Hypothesis test of ``count`` examples; no deadline, as machines may be busy."""
    return settings(max_examples=count * 5 if SOAK else count, derandomize=not SOAK, deadline=None,
                    print_blob=True, **options)
