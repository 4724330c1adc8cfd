"""tools/tensorrt_check: how it runs, resumes, judges and reports. Its engines here are those of the
stand-in, or no engines at all."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, call

import numpy as np
import pytest

from bidiff_deploy.errors import EngineError
from tools.checks.processes import guarded
from tools.tensorrt_check import __main__ as program
from tools.tensorrt_check import native, parity, parts, table

MACHINE = {"ok": True, "tensorrt": "10.3.0", "device": {
    "name": "Orin", "driver": "12.6", "architecture": 87}}
PLUGIN = {"ok": True, "file": "/x/libbidiff_tensorrt.so", "sha256": "ab", "interface": "IPluginV3",
          "built_for": "10.3.0"}
# What any part may come to.
DONE = {"ok": True, "cases": [], "batches": {}, "size": 8, "median_ms": 1.0, "images": [{
    "photo": "a.png", "variant": "plugin", "precision": "half", "psnr_y": 30.1, "ok": True,
    "cpu_psnr_y": 30.0, "difference_db": 0.1, "bound_db": 0.2, "against_cpu_db": 50.0}]}


@pytest.fixture
def run(monkeypatch):
    """A function: the exit code of a check whose parts come to ``results``, and which were run."""
    monkeypatch.setattr(program, "build_library", lambda folder: None)
    for name in ("BIDIFF_TENSORRT_PLUGIN", "XDG_DATA_HOME", "BIDIFF_TENSORRT_PLANS"):
        monkeypatch.setenv(name, "before")

    def check(*arguments: object, **results: dict) -> tuple[int, list[str]]:
        ran, known = [], {"machine": MACHINE, "plugin": PLUGIN, **{
            name.replace("_", "-"): result for name, result in results.items()}}

        def part(name: str, options: dict) -> dict:
            ran.append(name)
            check.options = options
            return known.get(name, DONE)

        monkeypatch.setattr(program, "run", part)
        return program.main([str(argument) for argument in arguments]), ran
    return check


def test_all_parts_run_and_are_kept_in_the_file(run, tmp_path, capsys):
    file, names = tmp_path / "trt.json", ["machine", "plugin", "parity-plugin", "parity-dense"]
    assert run("--json", file, "--parts", ",".join(names[1:]), "--work",
               tmp_path / "work") == (0, names)
    report = json.loads(file.read_text())
    assert list(report["parts"]) == names and report["options"]["batches"] == [1, 8]
    assert capsys.readouterr().out.startswith(
        "TensorRT 10.3.0, Orin, sm_87, driver for CUDA 12.6; plugin of IPluginV3, built for 10.3.0")
    # The other parts' plugin, and their plans in a folder of their own for each bundle.
    assert program.os.environ["BIDIFF_TENSORRT_PLUGIN"] == PLUGIN["file"]
    assert program.os.environ["XDG_DATA_HOME"] == str(tmp_path / "work" / "data")
    assert "BIDIFF_TENSORRT_PLANS" not in program.os.environ


def test_what_is_done_is_kept_and_what_failed_is_made_again(run, tmp_path):
    file = tmp_path / "trt.json"
    bad = {"ok": False, "reason": "no memory left"}
    assert run("--json", file, "--parts", "build,memory", memory=bad,
               build={"ok": True, "n": 1})[0] == 0
    # The folder of plans may have been moved.
    code, ran = run("--json", file, "--work", tmp_path / "moved", build={"ok": True, "n": 2})
    assert code == 0 and "build" not in ran and {"memory", "trtexec"} <= set(ran)
    assert json.loads(file.read_text())["parts"]["build"]["n"] == 1
    _, ran = run("--json", file, "--again", "--parts", "build", build={"ok": True, "n": 3})
    assert ran == ["machine", "plugin", "build"] and run.options["again"]
    # Of another plugin, nothing is kept.
    _, ran = run("--json", file, "--parts", "build", plugin={**PLUGIN, "sha256": "cd"})
    assert ran[-1] == "build" and set(json.loads(file.read_text())["parts"]) == set(ran)


@pytest.mark.parametrize("text, match", [
    *((text, "is not a report") for text in (
        "{", "[]", '{"parts": {}}', '{"options": {}, "parts": {"warp": {}}}',
        '{"options": {}, "parts": {"build": 1}}', "[" * 10_000)),
    ('{"options": {"size": 8}, "parts": {}}', "was measured with other options")])
def test_a_file_that_is_none_of_ours_is_left_alone(run, tmp_path, capsys, text, match):
    file = tmp_path / "trt.json"
    file.write_text(text)
    assert run("--json", file) == (1, [])
    assert match in capsys.readouterr().err and file.read_text() == text


def test_wrong_arguments_and_what_quick_leaves(run, capsys):
    for arguments, match in (
            (["--parts", "build,warp"], "--parts warp is unknown; parts are machine, plugin, par"),
            (["--size", "0"], "must be at least 1"), (["--batches", "1,x"], "invalid literal")):
        assert run(*arguments) == (1, [])
        told = capsys.readouterr().err
        assert match in told and told.count("\n") == 1
    run("--quick", "--steps", "7", "--parts", "machine")
    assert {name: run.options[name] for name in ("steps", "network", "repeats", "batches")} == {
        "steps": 7, "network": "small", "repeats": 3, "batches": [1]}
    capsys.readouterr()
    assert run(machine={"ok": False, "reason": "TensorRT is not installed"}) == (1, ["machine"])
    told = capsys.readouterr()
    assert told.out == "" and told.err.endswith(
        "error: nothing can be checked here: TensorRT is not installed\n")


@pytest.mark.parametrize("name, code", [
    ("parity-plugin", 1), ("parity-dense-int8", 1), ("images", 1), ("build", 0), ("speed-demo", 0)])
def test_parity_alone_decides_the_exit_code(run, capsys, name, code):
    assert run("--parts", name, **{name.replace("-", "_"): {"ok": False, "reason": "it broke"}}
               )[0] == code
    assert f"{'FAILED' if code else 'NOT DONE':9}{name}: it broke" in capsys.readouterr().out
    assert set(parts.PROOFS) <= set(parts.PARTS)


@pytest.mark.parametrize("variant, bounds", [("plugin", [40, 12]), ("dense", [40, None])])
def test_steps_are_held_against_the_published_outputs(monkeypatch, variant, bounds):
    """Of 20 dB, which is enough in float16 alone; one that cannot be had is reported, too."""
    options = {"reference_cases": ["forward_tiny"], "device": 3, "size": 64}
    opened = Mock(side_effect=[None, EngineError("no memory left")] * 2)

    def hold(case, precision, bound, folder, load):
        load(f"{precision}.bundle", (2, 3, 8, 16))
        return {"snr_db": 20.0, "bound_db": bound, "ok": bound is None or 20 >= bound}

    monkeypatch.setattr(parity, "load", opened)
    monkeypatch.setattr(parity, "hold_reference", hold)
    found = parity.steps(variant, options)
    assert opened.call_args_list == [call(f"{precision}.bundle", variant, (2, 8, 16), 3)
                                     for precision in ("exact", "half")]
    assert not found["ok"] and found["reason"] == (
        "forward_tiny exact: 20.0 dB of 40; forward_tiny half: no memory left")
    opened.side_effect = None
    found = parity.steps(variant, options)["cases"]
    assert [(entry["precision"], entry["bound_db"], entry["ok"]) for entry in found] == [
        ("exact", bounds[0], False), ("half", bounds[1], True)]


def test_images_are_held_against_the_originals(monkeypatch):
    """By what the CPU's engine would be, and once with noise."""
    random = np.random.default_rng(0)

    def engine(noise: int):
        def upscale(small, tile):
            made = np.asarray(small).repeat(2, 0).repeat(2, 1).astype(int)
            made += random.integers(-noise, noise + 1, made.shape)
            return made.clip(0, 255).astype(np.uint8)
        return contextlib.nullcontext(SimpleNamespace(scale=2, upscale=upscale))

    for name, value in {"network_bundle": Mock(), "load_bundle": lambda bundle: engine(0),
                        "load": lambda bundle, variant, *_: engine(30 * (variant == "plugin"))
                        }.items():
        monkeypatch.setattr(parity, name, value)
    found = parity.images({"device": 3, "size": 64})
    assert {entry["photo"] for entry in found["images"]} == {"chelsea.png", "china.jpg"}
    assert not found["ok"] and "chelsea.png plugin exact: -" in found["reason"]
    for entry in found["images"]:
        if entry["variant"] == "plugin":
            assert not entry["ok"] and entry["difference_db"] < -0.2
        else:
            assert entry["ok"] and entry["difference_db"] == 0 and entry["bound_db"] is None
    assert "chelsea.png     plugin" in table.to_text({"parts": {"images": found}})
    photo = np.arange(70 * 100 * 3, dtype=np.uint32).astype(np.uint8).reshape(70, 100, 3)
    assert np.array_equal(parity.centre(photo, 32), photo[19:51, 34:66])
    assert parity.centre(photo, 256).shape == (64, 64, 3)


def test_trtexec_of_each_version_is_found_and_its_time_read(tmp_path, monkeypatch):
    for version, expected in (
            ((8, 5, 3), "--plugins=lib.so --fp16"), ((8, 6, 1), "--staticPlugins=lib.so --fp16"),
            ((10, 3, 0), "--staticPlugins=lib.so --stronglyTyped"),
            ((11, 4, 0), "--staticPlugins=lib.so")):
        words = native.trtexec_command("trtexec", Path("step.onnx"), Path("lib.so"), version, 1)
        assert " ".join(words) == (f"trtexec --onnx=step.onnx {expected} --noTF32 --device=1 "
                                   "--useCudaGraph --noDataTransfers --warmUp=500")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(native, "_PLACES", ())
    with pytest.raises(EngineError, match="trtexec was not found; TensorRT"):
        native.find_trtexec(str(tmp_path))
    (tool := tmp_path / "bin" / "trtexec").parent.mkdir()
    tool.write_text("#!/bin/sh\necho hello\necho '[E] Error[4]: no plugin' >&2\nexit 1\n")
    tool.chmod(0o755)
    assert native.find_trtexec(str(tmp_path)) == str(tool)
    with pytest.raises(EngineError, match=r"^trtexec failed: \[E\] Error\[4\]: no plugin$"):
        native._run([str(tool)], "trtexec failed")
    assert native.median_of("[I] GPU Compute Time: min = 1.2 ms, max = 3 ms, mean = 2 ms, median = "
                            "1.875 ms, percentile(90%) = 2 ms") == 1.875
    with pytest.raises(EngineError, match="printed no GPU Compute Time"):
        native.median_of("&&&& PASSED")


@pytest.mark.parametrize("root, match", [
    (None, "there is no plugin for TensorRT 10.3; build it with"),
    ("/no/folder", "--tensorrt-root .* is not a folder")])
def test_a_plugin_that_cannot_be_built_is_reported(trt, monkeypatch, tmp_path, root, match):
    """The system has no headers."""
    monkeypatch.delenv("BIDIFF_TENSORRT_PLUGIN")
    monkeypatch.setattr(native, "_headers", lambda root: False)
    with pytest.raises(EngineError, match=match):
        native.plugin({"work": str(tmp_path), "again": False, "tensorrt_root": root})


def test_the_whole_tool_on_the_stand_in(trt, tmp_path, monkeypatch, capsys):
    """Twice: the second time plans and parts are there. The first part runs in a process of its
    own, as all do in use."""
    file, work, apart = tmp_path / "trt.json", tmp_path / "work", program.run
    monkeypatch.setattr(program, "build_library", lambda folder: None)
    monkeypatch.setattr(program, "run", lambda name, options: apart(name, options) if name ==
                        "machine" else guarded(parts.PARTS[name], options))

    def check(names: str) -> tuple[str, dict]:
        code = program.main(["--json", str(file), "--work", str(work), "--quick", "--network",
                             "tiny", "--reference", "forward_tiny", "--size", "8", "--steps", "1",
                             "--repeats", "1", "--parts", names])
        told = capsys.readouterr()
        assert code == 0, told
        return told.out, json.loads(file.read_text())["parts"]

    text, found = check("machine,parity-dense,build,build-dense,speed-network,memory,trtexec")
    assert "TensorRT 10.3.0, emulated sm_75" in text
    assert [name for name, part in found.items() if not part["ok"]] == ["trtexec"]
    plans = found["build"]["plans"] + found["build-dense"]["plans"]
    assert [plan["variant"] for plan in plans] == ["plugin"] * 3 + ["dense", "dense-int8"]
    assert all(plan["bytes"] > 0 for plan in plans)
    timed, = found["speed-network"]["batches"].values()
    assert {"plugin float32", "dense float16", "dense int8"} <= set(timed["ratios"])
    assert all(entry["peak_bytes"] >= entry["opened_bytes"] > 0
               for entry in found["memory"]["engines"])
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.plan")}
    # A part that was cut off begins again, with the plans that it had built.
    report = json.loads(file.read_text())
    del report["parts"]["parity-dense"]
    file.write_text(json.dumps(report))
    _, again = check("build,memory,parity-dense")
    assert again["build"] == found["build"] and "trtexec" in again and again["parity-dense"]["ok"]
    assert before and {path: path.stat().st_mtime_ns for path in work.rglob("*.plan")} == before
