"""The machine is examined once for all pages."""

from __future__ import annotations

import pytest

from support.report_pages import (
    one_examination,
)


@pytest.fixture(scope="module", autouse=True)
def examined_once(shared):
    with one_examination(shared):
        yield
