"""Bundles of strangers: graphs in files are never run, and a manifest that asks for more than its
weights file holds is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from attacks.bundles import GRAPHS, MANIFESTS, write
from attacks.limited import outcome_of
from attacks.mutants import write_mutant

from bidiff_deploy import BundleError, load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.operators.definitions import functions
from bidiff_deploy.operators.names import VERSION
from support.seeds import SEED, SOAK
from support.small_bbcu import small_bbcu

BEFORE = Path(__file__).parent / "exported_before" / "tiny.bundle"


@pytest.fixture
def hostile(reference, tmp_path):
    def make(maker):
        bundle = tmp_path / "hostile.bundle"
        shutil.copytree(reference.bundle("tiny", [900, 400]), bundle)
        write(bundle, maker)
        return bundle
    return make


@pytest.fixture(scope="module")
def honest(reference):
    return outcome_of(reference.bundle("tiny", [900, 400]))


@pytest.mark.parametrize("attack", GRAPHS)
def test_graphs_of_strangers_are_not_run(hostile, honest, attack):
    bundle = hostile(GRAPHS[attack])
    outcome = outcome_of(bundle)
    assert outcome.good and not outcome.error and outcome.digest == honest.digest, outcome
    assert outcome.costs_no_more_than(honest)
    with pytest.raises(BundleError, match=r"step_0900\.onnx does not fit its bundle: it") as caught:
        load_bundle(bundle, backend="onnxruntime-stock")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attack", GRAPHS)
def test_graphs_of_schema_1_must_be_those_of_their_network(tmp_path, honest, attack):
    bundle = tmp_path / "hostile.bundle"
    shutil.copytree(BEFORE, bundle)
    write(bundle, GRAPHS[attack])
    outcome = outcome_of(bundle)
    assert outcome.good and "hostile.bundle/step_" in outcome.error, outcome
    assert outcome.costs_no_more_than(honest)


@pytest.mark.parametrize("attack", MANIFESTS)
def test_manifests_that_ask_for_more_are_refused(hostile, honest, attack):
    outcome = outcome_of(hostile(MANIFESTS[attack]))
    assert outcome.good and outcome.error and "hostile.bundle" in outcome.error, outcome
    assert outcome.costs_no_more_than(honest)


@pytest.mark.soak
def test_random_changes_are_refused_or_run_within_limits(reference, tmp_path, honest):
    """Of diffusion bundles of both schemas, and of feed-forward ones."""
    bundle, feedforward = tmp_path / "hostile.bundle", tmp_path / "bbcu.bundle"
    export_bundle(small_bbcu(), feedforward)
    bases = (reference.bundle("tiny", [900, 400]), BEFORE, feedforward)
    for index in range(300 if SOAK else 27):
        base = bases[index % 3]
        name = write_mutant(base, bundle, np.random.default_rng([SEED, index]))
        outcome = outcome_of(bundle)
        assert outcome.good and outcome.costs_no_more_than(honest), (index, name, outcome)


@pytest.mark.parametrize("name", ["tiny", "small", "full"])
def test_honest_graphs_are_what_is_built(reference, name):
    times = [1960, 1920, 0] if name == "full" else [0]  # as other tests have them
    StepGraphs(open_bundle(reference.bundle(name, times))).require_equal()


def test_definitions_are_those_in_bundles_of_before():
    """A bundle is refused if it has others; a change of one makes a new version of the op set."""
    digest = hashlib.sha256()
    for function in functions():
        for node in function.node:
            node.ClearField("name")
        digest.update(function.SerializeToString(deterministic=True))
    assert (VERSION, digest.hexdigest()[:16]) == (2, "0c98ed1cf55c5166")
