"""The shipped model as a bundle and as a repository for Triton, and its served model."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bidiff_deploy import load_bundle
from bidiff_deploy.cli import group
from bidiff_deploy.serving.triton import export_repository
from support.serving_setup import DEMO, Server


@pytest.fixture(scope="package")
def bundle(shared):
    """The shipped model's bundle: a trained one, so that results may be compared."""
    def export(path):
        done = CliRunner().invoke(group, ["export", str(DEMO), "-o", str(path), "--timesteps",
                                          "40,20", "--quiet"])
        assert done.exit_code == 0, done.output

    return shared("demo.bundle", export)


@pytest.fixture(scope="package")
def repository(bundle, shared):
    return shared("repository", lambda path: export_repository(
        bundle, path, max_pixels=8192, threads=2, tile="none"))


@pytest.fixture
def server(repository, monkeypatch):
    with Server(repository, monkeypatch) as running:
        yield running


@pytest.fixture(scope="package")
def alone(bundle):
    """What the engine itself makes of one image."""
    with load_bundle(bundle, threads=2) as engine:
        yield lambda image, seed=0, **options: engine.upscale(image, seed, tile=None, **options)
