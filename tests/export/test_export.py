"""Folding and step graphs: what they compute, and that their bytes are as promised."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.checkpoint.packed import write_packed
from bidiff_deploy.checkpoint.read import read_checkpoint
from bidiff_deploy.errors import OutputError, UsageError
from bidiff_deploy.export.write import choose_timesteps, export_bundle
from bidiff_deploy.networks.bi_diffsr.step_constants import group_parameters, sinusoid, time_vectors
from bidiff_deploy.operators.names import DOMAIN
from bidiff_deploy.operators.value_names import short
from support import run_once
from support.reference_cases import snr


def run_stock(path: Path, noisy, condition) -> np.ndarray:
    """A step graph in ONNX Runtime without our op library: its function bodies run."""
    session = run_once.session(path)
    assert [i.name for i in session.get_inputs()] == ["noisy", "condition"]
    return session.run(["prediction"], {"noisy": noisy, "condition": condition})[0]


# Noise floors: the reference against itself in another memory layout (model.md's figures) is
# 124 dB where no sign flips and about 46 dB where some do; tiny has no near-ties.
@pytest.mark.parametrize("case, name, bound", [
    ("forward_tiny", "tiny", 100), ("forward_small", "small", 60), ("forward_full_64", "full", 45)])
def test_step_graphs_in_stock_onnxruntime_match_the_reference(reference, case, name, bound):
    data = reference.arrays(case)
    # Those of the published network are of both its cases, as for the engines' tests.
    times = [1960, 1200, 1000, 400, 0] if name == "full" else data["timesteps"]
    bundle = open_bundle(reference.bundle(name, times))
    pairs = list(zip(data["timesteps"], data["prediction"]))
    for timestep, expected in {"tiny": pairs[::2], "small": pairs[1::2], "full": pairs[1:2]}[name]:
        file = next(s.file for s in bundle.steps if s.timestep == timestep)
        found = run_stock(bundle.path / file, data["noisy"], data["condition"])
        assert snr(expected, found) >= bound, f"t = {timestep}"


def test_any_size_and_batch(reference):
    """Batch, height and width are free: each image of a batch is what it is alone."""
    bundle = open_bundle(reference.bundle("tiny", [700]))
    rng = np.random.default_rng(3)
    noisy, condition = rng.random((2, 3, 3, 6, 10), np.float32)
    path = bundle.path / bundle.steps[0].file
    together = run_stock(path, noisy, condition)
    assert together.shape == noisy.shape
    for i in range(3):
        alone = run_stock(path, noisy[i:i + 1], condition[i:i + 1])
        assert snr(alone, together[i:i + 1]) > 60


def test_graphs_pass_the_checker_and_differ_only_in_their_step_initializers(reference):
    bundle = open_bundle(reference.bundle("small", [1960, 400, 399, 0]))
    graphs = {}
    for step in bundle.steps:
        onnx.checker.check_model(str(bundle.path / step.file), full_check=True)
        graphs[step.timestep] = onnx.load(bundle.path / step.file, load_external_data=False)
    first = graphs[1960]
    places = {t: {i.name: [(e.key, e.value) for e in i.external_data]
                  for i in g.graph.initializer} for t, g in graphs.items()}
    differing = set()
    for t, graph in graphs.items():
        assert [n.SerializeToString() for n in graph.graph.node] \
            == [n.SerializeToString() for n in first.graph.node]
        assert graph.functions == first.functions
        assert list(places[t]) == list(places[1960])
        differing |= {name for name in places[t] if places[t][name] != places[1960][name]}
    assert differing == set(bundle.step_initializers)
    # 399 and 0 share a TaR/TaA group, 399 and 400 do not: only time differs within a group.
    within = {name for name in places[0] if places[0][name] != places[399][name]}
    assert within == {name for name in bundle.step_initializers if name.endswith(".time")}
    for graph in graphs.values():
        for node in graph.graph.node:
            if node.domain == DOMAIN and node.op_type == "BinaryConv":
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                assert attributes == {"plugin_namespace": b"bidiff", "plugin_version": b"1"}
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                assert entry.key != "offset" or int(entry.value) % 64 == 0


def test_the_published_network_fits_the_promised_size(reference, tmp_path):
    found = reference.packed("full")
    manifest = export_bundle(found, tmp_path / "b", timesteps=choose_timesteps(found, steps=50))
    sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    assert len(sizes) == 51 and sum(sizes.values()) <= 25e6
    assert max(size for name, size in sizes.items() if name.endswith(".onnx")) <= 80e3
    assert [s["timestep"] for s in manifest["steps"]] == list(range(1960, -1, -40))
    assert [s["group"] for s in manifest["steps"]] == [4] * 10 + [3] * 10 + [2] * 10 + [1] * 10 \
        + [0] * 10


def test_export_is_deterministic_and_packed_checkpoints_export_the_same(reference, tmp_path):
    original = reference.read("tiny")
    write_packed(tmp_path / "packed.safetensors", original)
    packed = read_checkpoint(tmp_path / "packed.safetensors")
    files = []
    for i, found in enumerate((original, original, packed)):
        export_bundle(found, tmp_path / str(i), timesteps=[900, 0])
        files.append({p.name: p.read_bytes() for p in (tmp_path / str(i)).iterdir()})
    assert files[0] == files[1]
    for name in files[0]:
        if name != "manifest.json":  # it names the source file
            assert files[0][name] == files[2][name]


def test_the_sinusoid_is_float32_as_torch_computes_it():
    torch = pytest.importorskip("torch")
    for dim in (16, 64):
        step = torch.arange(dim // 2, dtype=torch.float32) / (dim // 2)
        frequency = torch.exp(-np.log(1e4) * step)
        for t in (0, 1, 333, 1000, 1960, 1999):
            argument = torch.tensor([float(t)]) * frequency
            expected = torch.cat([argument.sin(), argument.cos()]).numpy()
            error = np.abs(sinusoid(t, dim) - expected)
            # One unit in the last place is what float32 sin of another library may differ by;
            # where float32 exp differs by one, the argument moves by as much (1 of 32 here).
            assert np.mean(error <= 6e-8) >= 0.95
            assert np.all(error <= 6e-8 + np.tile(argument.numpy(), 2) * 2.0 ** -22)
            if t == 1960:  # what the rounding is for: float64 throughout is elsewhere
                exact = t * np.exp(-np.log(1e4) * np.arange(dim // 2) / (dim // 2))
                assert np.mean(np.abs(np.sin(exact) - expected[:dim // 2]) <= 6e-8) < 0.9


def test_folding_takes_the_group_of_the_step(reference):
    found = reference.read("tiny")  # K = 3, T = 1000
    for t, group in ((0, 0), (333, 0), (334, 1), (666, 1), (667, 2), (999, 2)):
        assert found.config.group(t) == group
    folded = group_parameters(found, 1)
    name = "encoder.1.conv1"
    assert np.array_equal(folded[f"{name}.threshold"], found.state[f"{name}.threshold"][1])
    assert np.array_equal(folded[f"{name}.rprelu"], [found.state[f"{name}.{part}"][1] for part in
                                                     ("shift_in", "slope", "shift_out")])
    vectors = time_vectors(found, 5)
    assert all(vector.dtype == np.float32 and vector.ndim == 1 for vector in vectors.values())
    assert len(vectors) == sum(key.endswith(".time.weight") for key in found.state)


def test_names_in_graphs_are_short_and_distinct(reference):
    names = list(reference.packed("full").state)
    assert len({short(name) for name in names}) == len(names)
    assert short("encoder.3.conv1") == "e3.c1"


def test_timesteps_come_from_arguments_then_checkpoint_then_default(reference):
    found = reference.read("small")
    assert choose_timesteps(found) == tuple(range(1960, -1, -40))
    assert choose_timesteps(found, steps=4) == (1500, 1000, 500, 0)
    advised = dataclasses.replace(found, sampling={"timesteps": [300, 100]})
    assert choose_timesteps(advised) == (300, 100)
    assert choose_timesteps(advised, timesteps=[5, 3]) == (5, 3)
    for wrong in ([0, 1], [2000], [-1], []):
        with pytest.raises(UsageError):
            choose_timesteps(found, timesteps=wrong)
    with pytest.raises(UsageError):
        choose_timesteps(found, steps=2001)


def test_outputs_are_whole_or_absent(reference, tmp_path):
    found = reference.read("tiny")
    taken = tmp_path / "photos"
    taken.mkdir()
    (taken / "a.png").write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="photos"):
            export_bundle(found, taken, timesteps=[0], overwrite=overwrite)
    assert [p.name for p in taken.iterdir()] == ["a.png"]

    def fail(done, total):
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        export_bundle(found, tmp_path / "b", timesteps=[0], on_step=fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]
    export_bundle(found, tmp_path / "b", timesteps=[0])
    export_bundle(found, tmp_path / "b", timesteps=[1], overwrite=True)
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["steps"][0]["timestep"] == 1
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(UsageError, match="--scale"):
        export_bundle(dataclasses.replace(found, scale=None), tmp_path / "b", timesteps=[0])
    assert not (tmp_path / "b").exists()
