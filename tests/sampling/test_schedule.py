"""The schedule is diffusers', bit for bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.errors import UsageError
from bidiff_deploy.sampling.schedule import Schedule, check_timesteps
from support.seeds import examples


@pytest.mark.parametrize("case", ["ddim_small_50", "ddim_tiny_10"])
def test_the_reference_table_and_timesteps(reference, case: str) -> None:
    stored = reference.arrays(case)
    schedule = Schedule(len(stored["alphas_cumprod"]))
    table = schedule.alphas_cumprod
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table.view(np.uint32), stored["alphas_cumprod"].view(np.uint32))
    assert schedule.leading_timesteps(len(stored["timesteps"])) == tuple(stored["timesteps"])


@examples(100)
@given(steps=st.integers(1, 5000), bounds=st.tuples(st.floats(1e-6, 0.5), st.floats(1e-6, 0.5)))
def test_torch_computes_the_same(steps: int, bounds: tuple[float, float]) -> None:
    torch = pytest.importorskip("torch")
    start, end = sorted(bounds)
    schedule = Schedule(steps, start, end)
    betas = torch.linspace(start, end, steps, dtype=torch.float32)
    np.testing.assert_array_equal(schedule.betas, betas.numpy())
    np.testing.assert_array_equal(schedule.alphas_cumprod, torch.cumprod(1.0 - betas, 0).numpy())


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(ValueError):
        Schedule(10).alphas_cumprod[0] = 1


def test_written_and_read_again() -> None:
    schedule = Schedule(np.int64(1000), np.float32(1e-4), 0.02)
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    for values in ({}, {**schedule.to_dict(), "more": 1}):
        with pytest.raises(UsageError, match="beta_end, beta_start, kind, total_steps"):
            Schedule.from_dict(values)


@pytest.mark.parametrize("values", [
    {"kind": "cosine"}, {"total_steps": 0}, {"total_steps": 1.5}, {"total_steps": True},
    {"total_steps": 10**9}, {"beta_start": 0}, {"beta_start": "1e-6"}, {"beta_end": 1.0},
    {"beta_end": float("nan")}, {"beta_end": float("inf")}, {"beta_start": 0.5},
    {"beta_start": None}])
def test_values_that_are_no_schedule(values: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(values)) if "kind" not in values else "cosine"):
        Schedule(**values)


@examples(50)
@given(total=st.integers(1, 3000), data=st.data())
def test_leading_timesteps(total: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, total))
    found = Schedule(total).leading_timesteps(steps)
    assert len(found) == steps and found[-1] == 0
    assert check_timesteps(found, total) == found
    assert len({a - b for a, b in zip(found, found[1:])}) <= 1


@pytest.mark.parametrize("steps", [0, -1, 201, 2.0, True, None])
def test_impossible_numbers_of_steps(steps) -> None:
    with pytest.raises(UsageError, match="steps is"):
        Schedule(200).leading_timesteps(steps)


@pytest.mark.parametrize(("timesteps", "words"), [
    ([], "empty"), ([5, 5], "strictly descending"), ([1, 2], "strictly descending"),
    ([10], "from 0 to 9"), ([3, -1], "from 0 to 9"), ([3.0], "whole"), ([True], "whole"),
    (["3"], "whole")])
def test_lists_that_are_refused(timesteps: list, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_timesteps(timesteps, 10)


def test_numpy_timesteps_become_int() -> None:
    found = check_timesteps(np.array([9, 3, 0]), 10)
    assert found == (9, 3, 0) and all(type(t) is int for t in found)
