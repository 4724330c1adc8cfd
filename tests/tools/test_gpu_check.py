"""tools/gpu_check: its shapes and counts, its oracle, its table and how it takes failures. What it
measures here, on the emulated GPU, means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bidiff_deploy.errors import EngineError
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.networks.bi_diffsr.costs import count
from support import emulated_cuda, forked
from tools.checks import reference
from tools.checks.cuda_operators import OPERATORS
from tools.gpu_check import __main__ as program
from tools.gpu_check import layers, parity, parts, shapes, steps, table

ROOT = Path(__file__).parents[2]

# The published network's binary convolutions: channels, kernel, side, how many in a step.
PUBLISHED = {(32, 3, 256, 2), (64, 3, 256, 4), (64, 3, 128, 2), (128, 3, 128, 6), (128, 3, 64, 2),
             (256, 3, 64, 12), (256, 1, 64, 6), (512, 3, 32, 16), (512, 1, 32, 6)}
TINY = ["--cases", "1", "--largest", "5", "--layers", "32@2k1", "--batches", "1", "--repeats", "1",
        "--rounds", "1", "--cache", "0", "--steps", "1", "--size", "16", "--network", "tiny"]
PROGRAM = """
import sys
from tools.checks.processes import guarded
from tools.gpu_check import __main__ as program

apart = program.run
program.run = lambda name, options: (
    apart(name, options) if name == "machine" else guarded(program.PARTS[name], options))
sys.exit(program.main(sys.argv[1:]))
"""

pytestmark = pytest.mark.usefixtures("on_stand_in")


def test_all_convolutions_of_the_published_network():
    config = NetworkConfig()
    found = shapes.single_convolutions(config)
    assert {(layer.channels, layer.k, layer.size, layer.count) for layer in found} == PUBLISHED
    operators = shapes.network_operators(config)
    binary = 2 * count(config, config.image_size, config.image_size).binary_macs
    for listed in (found, operators):
        assert sum(layer.count * layer.operations(1) for layer in listed) == binary
        assert sum(layer.count * layer.operations(8) for layer in listed) == 8 * binary
    assert sum(layer.count * layer.branches for layer in operators) == 56
    assert {layer.operator for layer in operators} == set(OPERATORS) - {"BinaryConv",
                                                                        "GroupNormSwish"}


@pytest.mark.parametrize("operator, channels, maps", [
    ("BinaryConv", 64, 64 + 64), ("NormBinaryConv", 64, 64 + 64 + 64),
    ("BinaryFusion", 64, 64 + 64 + 64), ("BinaryDown", 64, 64 + 128 / 4),
    ("BinaryUp", 64, 64 + 32 * 4)])
def test_bytes_that_have_to_be_moved(operator, channels, maps):
    layer = shapes.Layer(operator, channels, 3, 10)
    side = layer.conv_channels
    words = layer.branches * side * 9 * -(-side // 32) * 4
    assert layer.bytes_moved(2, 2) == 2 * 100 * maps * 2 + words
    assert layer.bytes_moved(2, 4) - words == 2 * (layer.bytes_moved(2, 2) - words)


def test_layers_that_are_asked_for():
    assert [layer.name for layer in shapes.parse_layers("32@256k3,512@7k1")] == [
        "BinaryConv 32@256 k3", "BinaryConv 512@7 k1"]
    for text in ("32@256", "32@256k5", "x@2k3", "0@2k3", ""):
        with pytest.raises(ValueError):
            shapes.parse_layers(text)


def test_random_cases_are_replayed_and_allowed():
    cases = shapes.random_cases(OPERATORS, 50, 3, 70)
    assert cases == shapes.random_cases(OPERATORS, 50, 3, 70)
    assert cases != shapes.random_cases(OPERATORS, 50, 4, 70)
    for case in cases:
        assert case.channels % case.groups == 0 and 1 <= min(case.channels, case.height, case.width)
        if case.operator in ("BinaryFusion", "BinaryDown", "BinaryUp"):
            assert case.channels % 2 == 0 and case.out_channels == case.channels
        if case.operator == "BinaryDown":
            assert case.height % 2 == case.width % 2 == 0
    for operator in OPERATORS:
        mine = [case for case in cases if case.operator == operator]
        assert {case.k for case in mine} == {1, 3}
        assert {case.dtype for case in mine} == {"float16", "float32"}
    assert any(case.channels > 64 for case in cases) and any(case.width == 1 for case in cases)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_path_equals_the_cpu(gpu, operator):
    cases = shapes.random_cases([operator], 4, 11, 12)
    for case in cases:
        failures, runs = parity.check_case(gpu, case)
        assert failures == [] and runs >= (1 if operator == "GroupNormSwish" else len(gpu.paths))


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_wrong_result_is_found(gpu, operator, monkeypatch):
    """One element off by one unit in the last place; of the norm, by what is not tolerated."""
    from tools.checks.cuda_operators import Call
    case = shapes.random_cases([operator], 1, 2, 9)[0]
    right = Call.run

    def wrong(call, path="auto"):
        y = right(call, path)
        if call.operator == operator and path in ("auto", "popc"):
            flat = np.nan_to_num(y).reshape(-1)
            flat[-1] = flat[-1] + 1e-4 if operator == "GroupNormSwish" else \
                np.nextafter(flat[-1], y.dtype.type(np.inf))
            y = flat.reshape(y.shape)
        return y
    monkeypatch.setattr(Call, "run", wrong)
    failures, _ = parity.check_case(gpu, case)
    assert failures and all(case.name in failure for failure in failures)
    assert any("1 of" in failure and "instead of" in failure for failure in failures)


def test_layers_are_timed_by_every_path(gpu):
    listed = [shapes.Layer(operator, 4, 3, 4, 2) for operator in OPERATORS[:5]]
    found = layers.time_layers(gpu, listed, batch=2, repeats=2, rounds=1, bandwidth=1e9, cache=600)
    for layer, entry in zip(listed, found):
        assert entry["layer"] == layer.name and set(entry["paths"]) == {"and", "int8", "popc"}
        assert entry["floor_ms"] == pytest.approx(1e-6 * layer.bytes_moved(2, 2))
        assert 1 <= entry["buffers"] <= 3
        for path, figures in entry["paths"].items():
            assert figures["cold_ms"] > 0 and figures["warm_ms"] > 0
            assert figures["of_floor"] == pytest.approx(figures["cold_ms"] / entry["floor_ms"])
            assert len(entry["launches"][path]) <= 3
            assert all(name.startswith("bidiff_") for name in entry["launches"][path])
    assert gpu.free_memory == gpu.info.memory  # all given back
    total = layers.step_total(found)
    assert total["best"] <= min(total[path] for path in ("and", "int8", "popc"))
    assert total["and"] == pytest.approx(2 * sum(entry["paths"]["and"]["cold_ms"]
                                                 for entry in found))


def test_the_whole_program(tmp_path):
    """The first part in a process of its own, as all are in use; what this machine lacks is a
    sentence."""
    report_file = tmp_path / "report.json"
    done = forked.python(
        PROGRAM, *TINY, "--json", report_file, "--only", "machine,parity,sanitizer,layers,cudnn",
        environment={**emulated_environment(tmp_path), "PATH": "/usr/bin:/bin"}, torch=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(report_file.read_text())
    made = report["parts"]
    assert made["parity"]["ok"] and made["parity"]["cases"] == len(OPERATORS)
    assert made["parity"]["failures"] == [] and made["layers"]["ok"]
    assert made["machine"]["device"]["architecture"] == 80
    assert report["options"]["seed"] == 0 and "tools/gpu_check" in report["command"]
    assert "does not use the GPU" in made["cudnn"]["reason"] or \
        "not installed" in made["cudnn"]["reason"]
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok       parity: ") for line in lines)
    assert any(line.startswith("NOT DONE cudnn: torch") for line in lines)
    assert any(line.startswith("BinaryConv 32@2 k1") for line in lines)


def emulated_environment(tmp_path: Path) -> dict[str, str]:
    import os
    return {**os.environ, **emulated_cuda.variables(tmp_path, BIDIFF_EMULATED_GPUS="80")}


@pytest.mark.parametrize("variables, match", [
    ({"BIDIFF_LIBCUDA": "/no/libcuda.so"}, "the NVIDIA driver cannot be opened"),
    ({"BIDIFF_EMULATED_GPUS": ""}, "the NVIDIA driver reports no GPU")])
def test_no_gpu_is_one_sentence(tmp_path, variables, match):
    done = forked.program(ROOT / "tools" / "gpu_check", *TINY,
                          environment={**emulated_environment(tmp_path), **variables})
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and match in done.stderr


def test_a_part_that_is_not_known(capsys):
    assert program.main(["--only", "parity,warp"]) == 1
    assert "error: --only warp is unknown; parts are machine, parity" in capsys.readouterr().err


def test_a_part_that_crashes_or_hangs_does_not_take_the_rest(tmp_path, monkeypatch):
    for name, value in emulated_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    options = {"device": 0, "cases": 1, "seed": 0, "largest": 5}
    monkeypatch.setenv("BIDIFF_EMULATED_FAIL", "cuLaunchKernel=719")
    found = parts.run("parity", options)
    assert not found["ok"] and "launching bidiff_" in found["reason"]
    monkeypatch.delenv("BIDIFF_EMULATED_FAIL")
    killed = parts.run("parity", options, ("/bin/sh", "-c", "kill -SEGV $$"))
    assert not killed["ok"] and "its process ended with code -11" in killed["reason"]
    slow = parts.run("parity", options, ("/bin/sh", "-c", "sleep 60"), timeout=0.2)
    assert "did not end within" in slow["reason"]
    assert "could not be started" in parts.run("parity", options, ("/no/tool",))["reason"]
    odd = parts.guarded(lambda _: 1 / 0, {})
    assert odd == {"ok": False, "reason": "ZeroDivisionError: division by zero"}


def test_sanitizer_runs_each_of_its_tools(tmp_path, monkeypatch):
    """Stand-ins for compute-sanitizer: one that finds nothing, one that reports an error."""
    for name, value in emulated_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    tool = tmp_path / "compute-sanitizer"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    calls = []
    options = {"device": 0, "cases": 60, "seed": 0, "largest": 130}
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)

    def run(name, given, prefix):
        calls.append((name, given["cases"], given["largest"], prefix))
        return {"ok": True, "runs": 3, "exit_code": code, "output": "========= Invalid read"}
    monkeypatch.setattr(parts, "run", run)
    code = 0
    found = parts.guarded(parts.sanitizer, options)
    assert found["ok"] and [call[3][2] for call in calls] == ["memcheck", "racecheck", "synccheck",
                                                              "initcheck"]
    assert calls[0][:3] == ("parity", 6, 33) and calls[0][3][0] == str(tool)
    code = 99
    found = parts.guarded(parts.sanitizer, options)
    assert not found["ok"] and found["reason"] == "memcheck: ========= Invalid read"


def report() -> dict:
    figures = {"cold_ms": 0.02, "warm_ms": 0.01, "spread": 0.1, "teraops": 1208.0, "of_floor": 4.0}
    entry = {"layer": "NormBinaryConv 64@256 k3", "count": 4, "batch": 1, "bytes": 25_170_432,
             "operations": 4_831_838_208, "floor_ms": 0.005, "launches": {"and": ["a", "b", "c"],
                                                                          "popc": ["a"]},
             "paths": {"and": figures, "popc": {**figures, "cold_ms": 0.5}}}
    step = {"ok": True, "ms": 2.0, "spread": 0.04, "what": "onnxruntime 1.31.1"}
    return {"parts": {
        "machine": {"ok": True, "kernels": "compiled by NVRTC 12.9 for sm_90", "device": {
            "name": "H100", "architecture": 90, "driver": "13.0"}},
        "parity": {"ok": True, "runs": 100, "cases": 20, "paths": ["and", "popc"]},
        "sanitizer": {"ok": False, "reason": "compute-sanitizer was not found; it is ..."},
        "reference": {"ok": True, "cases": [
            {"case": "forward_tiny", "precision": "half", "snr_db": 15.6}]},
        "layers": {"ok": True, "batches": {"1": {
            "convolutions": [], "operators": [entry],
            "step_total_ms": {"and": 0.08, "popc": 2.0, "best": 0.08}}}},
        "cudnn": {"ok": True, "batches": {"1": {"NormBinaryConv 64@256 k3": 0.06}}},
        "step-ours": {"ok": True, "size": 256, "batches": {"1": step}},
        "step-torch": {"ok": True, "size": 256, "batches": {
            "1": {**step, "ms": 5.0}, "8": {"ok": False, "reason": "out of memory"}}}}}


def test_the_table():
    text = table.to_text(report())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "H100, sm_90, driver for CUDA 13.0; kernels compiled by NVRTC 12.9 for sm_90" in lines
    assert "NormBinaryConv 64@256 k3 4 0.0200 0.5000 0.0050 4.0 1208.0 3 0.0600" in lines
    assert "12 launches, 101 MB moved at least, 19 G operations" in lines
    assert "ours batch 1 2.000 +-2 %" in lines
    assert "torch batch 1 5.000 +-2 % 2.50x of ours" in lines
    assert "ok parity: 100 runs of 20 cases equal the CPU's, paths and, popc" in lines
    assert "NOT DONE sanitizer: compute-sanitizer was not found; it is ..." in lines
    assert "ok reference: forward_tiny half 15.6 dB" in lines
    assert any("batch 8: out of memory" in line for line in lines)
    assert max(map(len, text.splitlines())) <= 140


def test_what_counts_as_failed():
    given = report()
    assert table.failed(given) == []
    given["parts"]["reference"] = {"ok": False, "reason": "forward_tiny reaches 90.0 dB of 100"}
    given["parts"]["step-torch"] = {"ok": False, "reason": "torch is not installed; pip install"}
    given["parts"]["parity"] = {"ok": False, "reason": "NVRTC, ..., was not found"}
    assert table.failed(given) == ["parity", "reference"]
    assert "FAILED   reference: forward_tiny reaches 90.0 dB of 100" in table.to_text(given)


def test_reference_cases_have_bounds_and_files():
    for case, (network, bounds) in reference.CASES.items():
        assert (reference.REFERENCE / f"{case}.npz").is_file()
        assert bounds["exact"] >= 40 and bounds["half"] >= 12
        assert (reference.REFERENCE / f"layout_{network}.json").is_file()
    assert reference.snr(np.ones(4), np.ones(4)) == float("inf")
    assert reference.snr(np.ones(4), np.full(4, 1.1)) == pytest.approx(20)


def test_reference_cases_are_held_in_both_precisions(tmp_path, monkeypatch):
    """On the device that is asked for; what the engine makes of them here is replaced by what the
    files hold, and once by noise."""
    opened = []

    class Replayed:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def predict(self, noisy, condition, timestep):
            with np.load(reference.REFERENCE / "forward_tiny.npz") as file:
                index = list(file["timesteps"]).index(timestep)
                return file["prediction"][index] * scale

    def load(bundle, *, backend, device):
        opened.append((steps.open_bundle(bundle).precision, backend, device))
        return Replayed()
    monkeypatch.setattr(steps, "load_bundle", load)
    scale = 0.9  # 20 dB: enough in float16 alone
    exact, half = steps.hold_reference(["forward_tiny"], tmp_path, 3)
    assert [entry["snr_db"] for entry in (exact, half)] == pytest.approx([20, 20], abs=0.1)
    assert not exact["ok"] and half["ok"] and half["precision"] == "half"
    assert opened == [("float32", "onnxruntime-cuda", 3), ("float16", "onnxruntime-cuda", 3)]
    with pytest.raises(EngineError, match="forward_huge is not a reference case; known are"):
        steps.hold_reference(["forward_huge"], tmp_path)


def test_reference_bundles_come_of_the_cases(tmp_path, monkeypatch):
    bundle = reference.reference_bundle("tiny", [400], tmp_path, precision="half")
    assert (bundle / "manifest.json").is_file()
    assert reference.reference_bundle("tiny", [400], tmp_path, precision="half") == bundle
    monkeypatch.setattr(reference, "REFERENCE", tmp_path)
    with pytest.raises(EngineError, match="contains no layout_tiny.json; run this in a checkout"):
        reference.reference_bundle("tiny", [400], tmp_path)
