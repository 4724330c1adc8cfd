"""The shipped diffusion model as a bundle and as an engine."""

from __future__ import annotations

import pytest

from bidiff_deploy import load_bundle
from support.served import export


@pytest.fixture(scope="package")
def bundle(shared):
    return shared("diffusion-x2-served.bundle", lambda path: export("diffusion-x2", path))


@pytest.fixture(scope="package")
def engine(bundle):
    with load_bundle(bundle, threads=2) as opened:
        yield opened
