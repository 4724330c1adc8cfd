"""The baselines compute the packed engine's function, and the figures follow from the times."""

from __future__ import annotations

import json
import os
import re
import statistics
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bidiff_deploy import load_bundle
from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.cli import group
from bidiff_deploy.engines import library
from bidiff_deploy.errors import EngineError, UsageError
from bidiff_deploy.networks.bi_diffsr.costs import count
from bidiff_deploy.proof.bench import candidates
from bidiff_deploy.proof.bench import measure as bench
from bidiff_deploy.proof.bench.folded import write_folded
from bidiff_deploy.proof.bench.measure import BenchResult, Measured, bench_bundle
from bidiff_deploy.report.page import _tiles
from support import forked
from support.forked_measurements import forked_measurements
from support.reference_cases import snr

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())

CASES = [("tiny", 400, (16, 24)), ("small", 1000, (32, 32))]


@pytest.mark.parametrize("name, timestep, size", CASES)
@pytest.mark.parametrize("baseline", ["onnxruntime", "torch", "openvino", "openvino-bf16"])
def test_a_baseline_computes_the_same_step(reference, tmp_path, name, timestep, size, baseline):
    if baseline != "onnxruntime":
        pytest.importorskip(baseline.removesuffix("-bf16"))
    path = reference.bundle(name, [999, 400, 0] if name == "tiny" else [1960, 1000, 0])
    candidates.prepare([baseline], open_bundle(path), timestep, tmp_path)
    feeds = candidates.inputs(open_bundle(path), size)
    try:
        found = candidates.load(baseline, path, timestep, 1, tmp_path)(feeds)
    except EngineError as error:
        pytest.skip(str(error))
    with load_bundle(path, threads=1) as engine:
        expected = engine.predict(*feeds.values(), timestep)
        other = engine.predict(*feeds.values(), 0)
    assert found.dtype == np.float32 and found.shape == expected.shape
    # Nearer to this step than this step is to another one, by far.
    apart = snr(expected, other)
    assert snr(expected, found) > (apart + 5 if "bf16" in baseline else max(25, apart + 10))


def test_minus_sign_lacks_the_sign_nodes_and_nothing_else(reference, tmp_path):
    bundle = open_bundle(reference.bundle("tiny", [999, 400, 0]))
    kinds = {}
    for sign in (True, False):
        folder = tmp_path / str(sign)
        folder.mkdir()
        model = onnx.load(write_folded(bundle, 400, folder, sign=sign))
        onnx.checker.check_model(model, full_check=True)
        assert not model.functions and {node.domain for node in model.graph.node} == {""}
        assert [value.name for value in model.graph.input] == ["noisy", "condition"]
        kinds[sign] = [node.op_type for node in model.graph.node]
    assert kinds[True].count("Sign") == 28
    assert [kind for kind in kinds[True] if kind != "Sign"] == kinds[False]


def test_a_baseline_has_no_fused_operator_and_adds_no_zero(reference, tmp_path):
    """What a fused operator takes for an absent map is no work that a baseline should do."""
    path = reference.bundle("small", [1960, 1000, 0])
    model = onnx.load(write_folded(open_bundle(path), 1000, tmp_path))
    values = {tensor.name: onnx.numpy_helper.to_array(tensor, str(tmp_path))
              for tensor in model.graph.initializer}
    kinds = [node.op_type for node in model.graph.node]
    layers = count(open_bundle(path).config, 32, 32).layers
    assert kinds.count("Conv") == len([layer for layer in layers if not layer.product])
    assert not any(values.get(name, np.ones(1)).any() == 0 for node in model.graph.node
                   if node.op_type == "Add" for name in node.input)
    assert {output for node in model.graph.node for output in node.output} > {"prediction"}


def test_figures_follow_from_the_rounds(reference, monkeypatch):
    monkeypatch.setattr(bench.os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    shares = []
    result = bench_bundle(open_bundle(reference.bundle("tiny", [999, 400, 0])), size=(16, 16),
                          threads=1, rounds=3, steps=2, on_progress=shares.append,
                          against=["onnxruntime", "onnxruntime-minus-sign"])
    if before is not None:
        assert os.sched_getaffinity(0) == before
    assert shares == sorted(shares) and 0 < shares[0] and shares[-1] <= 1
    assert not any("busy" in text for text in result.warnings)
    packed, plain, minus = result.measured
    assert (packed.name, plain.name, minus.name) == (
        "packed", "onnxruntime", "onnxruntime-minus-sign")
    assert packed.ratio is None and packed.snr is None and plain.snr > 40
    assert library.selected_kernel() in packed.description
    for one in result.measured:
        assert len(one.seconds) == 3 and min(one.seconds) > 0
        assert one.load_seconds > 0 and one.first_run_seconds > 0
        assert one.peak_memory > 20 << 20
    rounds = [a / b for a, b in zip(plain.seconds, packed.seconds)]
    assert plain.ratio == (statistics.median(rounds), min(rounds), max(rounds))
    assert 0 < result.binary_share < 1 and result.steps == 2
    assert result.image_seconds(plain) == 2 * plain.median + result.overhead_seconds
    assert result.ceiling(plain) > plain.median / packed.median
    parts, operators = result.profile["parts"], result.profile["operators"]
    assert parts["binary layers"] == pytest.approx(sum(operators[name] for name in (
        "NormBinaryConv", "BinaryFusion", "BinaryDown", "BinaryUp")))
    assert parts["full-precision layers"] == pytest.approx(
        operators["Conv3x3"] + operators["NormConv"])
    assert parts["attention"] == operators["Attention"] and "roofline" not in result.profile
    assert sum(parts.values()) == pytest.approx(sum(operators.values()))
    # Its runs are in the same rounds; whatever else ran then, it explains no more than the step.
    assert sum(parts.values()) <= packed.median * (1 + 1e-9) and result.profile["scale"] <= 1
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["measured"][1]["image_seconds"] == result.image_seconds(plain)


def test_bounds_are_work_over_measured_rates(reference):
    result = bench_bundle(open_bundle(reference.bundle("small", [1960, 1000, 0])), size=(32, 32),
                          threads=1, rounds=1, against=[], bounds=True)
    found = result.profile["roofline"]
    rates = found["rates"]
    assert rates["packed"] > rates["float"] > 1e9 and rates["memory"] > 1e8 < rates["bf16"]
    counted = count(open_bundle(reference.bundle("small", [1960, 1000, 0])).config, 32, 32)
    parts = found["parts"]
    assert parts["binary layers"]["arithmetic"] == pytest.approx(
        counted.binary_macs / rates["packed"])
    # Winograd's algorithm saves three of four products, attention two of four with weights.
    saved = {"conv1": 4, "conv2": 4, "conv": 4, "qkv": 2, "out": 2}
    assert sum(row["arithmetic"] for row in parts.values()) == pytest.approx(
        counted.binary_macs / rates["packed"] + sum(
            layer.macs / rates["float"] / saved.get(layer.name.rpartition(".")[2], 1)
            for layer in counted.layers if not layer.binary))
    # It reads a map of 6 channels and writes one of 32, at 32x32.
    stem = found["operators"]["Conv3x3"]
    assert stem["memory"] == pytest.approx(
        4 * 32 * 32 * (6 + 32) / rates["memory"], rel=0.01)
    for table in ("parts", "operators"):
        for name, row in found[table].items():
            assert row["seconds"] == result.profile[table][name]
            assert max(row["arithmetic"], row["memory"]) <= row["bound"] * (1 + 1e-9)
    assert found["bound"] == pytest.approx(sum(row["bound"] for row in parts.values()))
    from bidiff_deploy.cli.bench import table
    text = table(result, profile=True)
    assert "would meet all bounds" in text and "time / bound" in text
    json.dumps(result.to_dict(), allow_nan=False)


def made(share: float = 0.75, packed: float = 0.1, plain: float = 0.4) -> BenchResult:
    profile = {"parts": {"binary layers": share, "attention": 1 - share},
               "operators": {"BinaryConv": share, "Softmax": 1 - share}}
    return BenchResult("x.bundle", (64, 96), 2, 50, 1, (0.1, 2.0), 0.5, [
        Measured("packed", "a", [packed], 0.2, 0.3, 100 << 20, 0.2),
        Measured("onnxruntime", "b", [plain], 0.4, 0.5, 300 << 20, 0.8, float("inf"),
                 (plain / packed,) * 3)], profile, {"torch": "it is not installed"})


def test_the_ceiling_is_amdahls():
    result = made(share=0.75, packed=0.1, plain=0.4)
    assert result.ceiling(result.measured[1]) == pytest.approx(0.4 / 0.025)
    assert result.image_seconds(result.measured[0]) == pytest.approx(5.5)
    assert result.to_dict()["measured"][1]["snr"] == "inf"


def test_the_table_shows_ratio_ceiling_and_shares():
    from bidiff_deploy.cli.bench import table

    text = table(made(), profile=True)
    assert "4.00 times as fast as onnxruntime" in text and "at most 16.00" in text
    assert "75.0 %" in text and "BinaryConv" in text and "64x96" in text
    assert "torch" in text and "it is not installed" in text and "300 MiB" in text


def test_a_busy_machine_marks_every_figure():
    from bidiff_deploy.cli.bench import table

    quiet, busy = table(made(), profile=True), table(replace(made(), busy=True), profile=True)
    times = re.findall(r"\d+\.\d+ (?:ms|s|times|%)", quiet)
    assert len(times) >= 14 and "~" not in quiet
    marked = re.findall(r"~\d+\.\d+ +(?:ms|s|times|%)", busy)
    assert [figure.replace("~", "") for figure in marked] == times
    assert "~: measured while the machine was busy" in busy

    report = SimpleNamespace(bench=replace(made(), busy=True).to_dict(), pictures=[], parity=None,
                             inspection={"total": {"checkpoint": 8, "disk": 1},
                                         "macs": {"packed": 1}})
    value, _, note = _tiles(report)[0]
    assert value == "~4.0\u00d7" and note.endswith("measured on a busy machine")


def test_a_profile_beyond_the_step_is_scaled_to_it():
    from bidiff_deploy.cli.bench import table

    result = made()
    result.profile["scale"] = 0.5
    assert "scaled to the step; profiled, it took 2.00 times as long" in table(result)


def test_it_warns_when_the_machine_is_busy(reference, monkeypatch):
    monkeypatch.setattr(bench.os, "getloadavg", lambda: (1.7, 0.0, 0.0))
    with forked_measurements():
        result = bench_bundle(open_bundle(reference.bundle("tiny", [999, 400, 0])), size=(8, 8),
                              threads=1, rounds=1, against=[])
    assert any("busy (load average 1.70" in text for text in result.warnings)
    assert result.busy and len(result.measured) == 1


def test_without_torch_it_runs_and_says_what_is_missing(reference, tmp_path):
    """Also the processes that it starts see no torch."""
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = forked.python(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{forked.COMMAND}",
        "bench", reference.bundle("tiny", [999, 400, 0]), "--size", "8x8", "--threads", "1",
        "--rounds", "1", "--against", "torch,onnxruntime", "--json", "--quiet",
        environment={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert [one["name"] for one in values["measured"]] == ["packed", "onnxruntime"]
    assert "torch is not installed" in values["unavailable"]["torch"]


def test_what_it_refuses(reference):
    path = reference.bundle("small", [1960, 1000, 0])
    bundle = open_bundle(path)
    with pytest.raises(UsageError, match="'cuda' cannot be measured"):
        bench_bundle(bundle, size=(32, 32), threads=1, against=["cuda"])
    with pytest.raises(UsageError, match="multiples of"):
        bench_bundle(bundle, size=(33, 32), threads=1)
    with pytest.raises(UsageError, match="steps is 9"):
        bench_bundle(bundle, size=(32, 32), threads=1, steps=9)
    done = CliRunner().invoke(group, ["bench", str(path), "--size", "big", "--threads", "1"])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
