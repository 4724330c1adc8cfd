"""Bundles of the first version: today the same files are written, and they give the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.export.write import export_bundle

BEFORE = Path(__file__).parent / "exported_before"
pytest.importorskip("onnxruntime")


def export_again(name, reference, folder):
    old = open_bundle(BEFORE / f"{name}.bundle")
    checkpoint = (reference.read(name) if name == "tiny"
                  else read_checkpoint(BEFORE / f"{name}.safetensors"))
    timesteps = [step.timestep for step in old.steps] if name == "tiny" else []
    export_bundle(checkpoint, folder / f"{name}.bundle", timesteps=timesteps)
    return old.path, folder / f"{name}.bundle"


@pytest.mark.parametrize("name", ["tiny", "bbcu"])
def test_the_same_files_are_written(reference, tmp_path, name):
    old, new = export_again(name, reference, tmp_path)
    assert sorted(f.name for f in old.iterdir()) == sorted(f.name for f in new.iterdir())
    for file in old.iterdir():
        if file.name != "manifest.json":
            assert file.read_bytes() == (new / file.name).read_bytes(), file.name
    before, now = (json.loads((path / "manifest.json").read_text()) for path in (old, new))
    for manifest in (before, now):
        del manifest["tool"]["version"], manifest["schema_version"]
    # Schema 2 lists where tensors are, which the graphs alone stated before.
    assert now.pop("tensors") and all(step.pop("offsets") for step in now.get("steps", ()))
    assert before == now


@pytest.mark.parametrize("name", ["tiny", "bbcu"])
def test_they_give_the_same_bits(reference, tmp_path, name):
    arrays = [np.random.default_rng(seed).random((1, 3, 16, 24), np.float32) for seed in (0, 1)]
    results = []
    for path in export_again(name, reference, tmp_path):
        with load_bundle(path, threads=1) as engine:
            results.append([engine.predict(*arrays, timestep) for timestep in engine.timesteps]
                           if name == "tiny" else [engine.enlarge(arrays[0])])
    for before, now in zip(*results):
        assert before.tobytes() == now.tobytes()
