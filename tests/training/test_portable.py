"""The small state file, from which a run goes on on another machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os

import pytest
import torch

from bidiff_deploy.errors import CheckpointError, OutputError, UsageError
from bidiff_deploy.files import atomic_file
from bidiff_deploy.training import portable
from bidiff_deploy.training.loop import train
from bidiff_deploy.training.portable import read_portable
from bidiff_deploy.training.recipe import recipe_from_dict
from support.training_setup import changed, silent


def recipe(iterations: int, state: str = "state/net.safetensors"):
    return recipe_from_dict(changed(network={"dropout": 0.0, "binarizer": "none"},
                                    run={"iterations": iterations, "state": state}))


def weights(path):
    return torch.load(path, weights_only=True)["params"]


def test_a_run_goes_on_from_it_as_from_its_checkpoint(folder):
    first = train(recipe(4), folder, folder / "here", report=silent)
    file = folder / "state" / "net.safetensors"
    assert file.stat().st_size < 0.55 * first.stat().st_size
    found, whole = read_portable(file), torch.load(first, weights_only=True)
    assert found["iteration"] == 4 and found["recipe"] == recipe(4).to_dict()
    for part in ("params", "params_ema"):
        for name, value in whole[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-3, atol=1e-7)
    for index, moments in whole["optimizer"]["state"].items():
        for name, value in moments.items():
            torch.testing.assert_close(found["optimizer"]["state"][index][name], value,
                                       rtol=8e-3, atol=0)
    there = train(recipe(8), folder, folder / "there", resume=True, report=silent)
    here = train(recipe(8), folder, folder / "here", resume=True, report=silent)
    # The network is full precision: rounding turns signs, after which runs drift apart.
    begun, one, other = whole["params"], weights(here), weights(there)
    moved = sum(float((one[name] - begun[name]).square().sum()) for name in one)
    apart = sum(float((one[name] - other[name]).square().sum()) for name in one)
    assert moved > 0 and apart < 1e-3 * moved


def test_a_resume_needs_no_initial_weights(folder):
    train(recipe(2), folder, folder / "first", report=silent)
    begun = dataclasses.replace(recipe(3), initial="first/checkpoint.pt")
    train(begun, folder, folder / "second", report=silent)
    (folder / "first" / "checkpoint.pt").unlink()
    longer = dataclasses.replace(recipe(4), initial="gone.safetensors")
    for name in ("second", "third"):  # the latter from the small state
        assert torch.load(train(longer, folder, folder / name, resume=True, report=silent),
                          weights_only=True)["iteration"] == 4


def test_without_either_there_is_nothing_to_resume(folder):
    with pytest.raises(OutputError, match="net.safetensors: no run to resume"):
        train(recipe(4), folder, folder / "run", resume=True, report=silent)


def test_files_that_are_none(folder):
    train(recipe(1), folder, folder / "run", report=silent)
    file = folder / "state" / "net.safetensors"
    data = file.read_bytes()
    for damaged in (data[:-100], b"", data.replace(b'optimizer/0/step', b'optimizer/x/step')):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="cannot be read as the state of a run"):
            train(recipe(2), folder, folder / "other", resume=True, report=silent)
    with pytest.raises(UsageError, match="run.state must end in .safetensors"):
        recipe(1, "state.pt")


def test_what_is_written_is_the_locked_file_with_an_outputs_permissions(tmp_path, monkeypatch):
    """A file that replaced the temporary one would have neither."""
    kept = []

    @contextlib.contextmanager
    def watched(path, overwrite):
        with atomic_file(path, overwrite) as temporary:
            before = temporary.stat()
            yield temporary
            kept.append(os.path.samestat(before, temporary.stat()))

    monkeypatch.setattr(portable, "atomic_file", watched)
    weight = torch.arange(16.0).reshape(1, 1, 4, 4)
    state = {"recipe": {}, "scaler": {}, "iteration": 3, "seconds": 1.5, "best": None,
             "params": {"w": weight}, "params_ema": {"w": weight}, "objective": {},
             "optimizer": {"state": {}, "param_groups": [{"lr": 0.5}]}}
    before = os.umask(0o027)
    try:
        for _ in range(2):  # new, and over an older one
            portable.write_portable(tmp_path / "s.safetensors", state)
    finally:
        os.umask(before)
    assert kept == [True, True]
    assert (tmp_path / "s.safetensors").stat().st_mode & 0o777 == 0o640
    found = read_portable(tmp_path / "s.safetensors")
    assert found["iteration"] == 3 and torch.equal(found["params"]["w"], weight)
