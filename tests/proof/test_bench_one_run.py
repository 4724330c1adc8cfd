"""A benchmark of a feed-forward network: its baselines, figures and table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.cli.bench import table
from bidiff_deploy.engines import library
from bidiff_deploy.errors import EngineError, UsageError
from bidiff_deploy.proof.bench import candidates
from bidiff_deploy.proof.bench.measure import bench_bundle
from support.bbcu_networks import DIRECT, bundle_of, random_network
from support.forked_measurements import forked_measurements

pytestmark = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return open_bundle(bundle_of(random_network(DIRECT), tmp_path_factory.mktemp("bench")))


def test_figures_of_a_run(bundle):
    with forked_measurements():
        result = bench_bundle(bundle, size=(16, 24), threads=1, rounds=2, bounds=True,
                              against=["onnxruntime"])
    packed, plain = result.measured
    assert plain.snr > 60 and plain.ratio is not None and "feed-forward" in packed.description
    assert (result.what, result.steps, result.overhead_seconds) == ("run", 1, 0)
    assert result.image_seconds(plain) == plain.median
    assert result.images_per_cpu_second(plain) == 1 / plain.cpu_seconds > 0
    operators, parts = result.profile["operators"], result.profile["parts"]
    assert parts["binary layers"] == operators["BinaryConv"]
    assert parts["full-precision layers"] == operators["WinogradConv"]
    layers = bundle.network.count(bundle.config, 16, 24)
    roofline = result.profile["roofline"]
    assert roofline["parts"]["binary layers"]["arithmetic"] == pytest.approx(
        layers.binary_macs / roofline["rates"]["packed"])
    text = table(result, profile=True)
    assert "images/CPU s" in text and "would meet all bounds" in text
    assert "steps" not in text and "a run of " in text
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_baseline_computes_the_same_image(bundle, tmp_path):
    candidates.prepare(["onnxruntime"], bundle, 0, tmp_path)
    feeds = candidates.inputs(bundle, (9, 14))
    assert {name: value.shape for name, value in feeds.items()} == {"picture": (1, 3, 9, 14)}
    found = candidates.load("onnxruntime", bundle.path, 0, 1, tmp_path)(feeds)
    with pytest.raises(EngineError, match="torch is a baseline of diffusion models only"):
        candidates.load("torch", bundle.path, 0, 1, tmp_path)
    with load_bundle(bundle.path, threads=1) as engine:
        np.testing.assert_allclose(found, engine.enlarge(*feeds.values()), atol=1e-4)


def test_it_has_no_steps(bundle):
    with pytest.raises(UsageError, match="no time steps, so leave steps out"):
        bench_bundle(bundle, size=(16, 16), threads=1, steps=2)
