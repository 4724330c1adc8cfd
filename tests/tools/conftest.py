"""The emulated GPU that tests of the tools measure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import emulated_cuda
from tools.checks.cuda_operators import Gpu


@pytest.fixture
def gpu(on_stand_in: None) -> Iterator[Gpu]:
    with Gpu(emulated_cuda.ordinal(90)) as opened:
        yield opened
