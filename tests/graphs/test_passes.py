"""The list of passes: each gets what it requires, and ensures what it says."""

from __future__ import annotations

import itertools

import pytest

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.bundle.step_graphs import StepGraphs
from bidiff_deploy.graphs import passes
from bidiff_deploy.graphs.lowering import first_step
from bidiff_deploy.graphs.passes import CPU, CUDA, TENSORRT, run_passes
from bidiff_deploy.graphs.record import Options

TARGETS = {"cpu": CPU, "cuda": CUDA, **TENSORRT}
# ``float16`` and
# ``fix_sizes`` change what no later pass reads. Their own tests are elsewhere.
NEEDED = [(target, index) for target, listed in TARGETS.items()
          for index, one in enumerate(listed[:-1])
          if one is not passes.FLOAT16]


@pytest.fixture(scope="module")
def graphs(reference):
    return StepGraphs(open_bundle(reference.bundle("tiny", [999, 400, 0])))


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_pass_requires_is_ensured_by_one_before(target):
    ensured = set()
    for one in TARGETS[target]:
        assert set(one.requires) <= ensured, one.name
        ensured |= set(one.ensures)


@pytest.mark.parametrize("shape", [None, (2, 16, 24)], ids=["free", "static"])
@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("target", TARGETS)
def test_requirements_and_promises_hold(graphs, target, float16, shape):
    options = Options(graphs, float16=float16, int8=target == "dense-int8", shape=shape)
    run_passes(TARGETS[target], first_step(graphs), options, check=True)


@pytest.mark.parametrize("target, left_out", NEEDED, ids=[
    f"{target}-{TARGETS[target][index].name}" for target, index in NEEDED])
def test_a_pass_that_is_left_out_is_noticed(graphs, target, left_out):
    listed = TARGETS[target]
    shortened = [one for index, one in enumerate(listed) if index != left_out]
    options = Options(graphs, int8=target == "dense-int8", shape=(1, 16, 16))
    with pytest.raises(AssertionError, match="the pass [a-z0-9_]+ (requires|ensures) that "):
        run_passes(shortened, first_step(graphs), options, check=True)


def test_a_changed_order_is_noticed(graphs):
    listed = [one for one in CUDA if one is not passes.FLOAT16]
    for first, second in itertools.combinations(range(1, len(listed)), 2):
        order = listed.copy()
        order[first], order[second] = order[second], order[first]
        with pytest.raises(AssertionError, match="requires that"):
            run_passes(order, first_step(graphs), Options(graphs), check=True)
