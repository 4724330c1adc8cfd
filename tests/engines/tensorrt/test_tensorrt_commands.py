"""The commands with the TensorRT backends, on a stand-in for TensorRT that computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bidiff_deploy.engines import TENSORRT, library
from stand_ins import tensorrt as tensorrt_stand_in

pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings")

if library.library_path() is None:
    pytest.skip(library.missing_reason(), allow_module_level=True)

COMMAND = "from bidiff_deploy.cli import main; main()"


def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = tensorrt_stand_in.run(COMMAND, folder, *arguments, version="10.3.0",
                                 BIDIFF_TENSORRT_PLANS=str(folder / "plans"))
    return done.returncode, done.stdout, done.stderr


def test_the_commands(reference, tmp_path):
    from PIL import Image

    bundle = str(reference.bundle("tiny", [999, 400, 0]))
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(tmp_path / "in.png")
    upscale = ("upscale", bundle, str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"),
               "--backend", "tensorrt", "--device", "0", "--quiet")
    code, _, told = command(tmp_path, *upscale)
    assert code == 1 and told.startswith("error: there is no plugin plan") and "`" in told
    assert told.count("\n") == 1
    for options in ((), ("--no-plugin",)):
        code, _, told = command(tmp_path, "build", bundle, "--size", "16x24", "--quiet", *options)
        assert code == 0, told
    code, _, told = command(tmp_path, *upscale)
    assert code == 0 and Image.open(tmp_path / "out.png").size == (24, 16), told
    code, found, told = command(
        tmp_path, "bench", bundle, "--size", "16x24", "--against",
        "tensorrt-dense,tensorrt-dense-int8", "--rounds", "1", "--json", "--quiet",
        "--threads", "1", "--device", "0")
    assert code == 0, told
    result = json.loads(found)
    assert [one["name"] for one in result["measured"]] == ["packed", "tensorrt-dense"]
    assert all(one["snr"] > 100 for one in result["measured"][1:])
    assert "there is no dense-int8 plan" in result["unavailable"]["tensorrt-dense-int8"]
    pytest.importorskip("torch")
    pytest.importorskip("polygraphy")
    code, found, told = command(
        tmp_path, "check", bundle, str(reference.checkpoint("tiny")), "--options",
        str(reference.options("tiny")), "--backend", "tensorrt", "--device", "0", "--timesteps",
        "400", "--size", "16x24", "--threads", "1")
    assert code == 0, found + told
    assert "tensorrt 10.3.0" in found and "only CPU backends return them" in found


def test_the_doctor_builds_and_runs_a_plan(tmp_path):
    program = ("import sys\nfrom bidiff_deploy.doctor import probes as doctor_probes\nimport json\n"
               "print(json.dumps({name: doctor_probes.run(name) for name in "
               "('plugin', 'cuda_python', 'backend:tensorrt', 'backend:tensorrt-dense-int8')}))")
    done = tensorrt_stand_in.run(program, tmp_path, version="10.3.0")
    found = json.loads(done.stdout)
    assert found["plugin"]["ok"] and found["plugin"]["tensorrt"].startswith("10.3.0")
    assert found["cuda_python"]["ok"] and found["cuda_python"]["version"]
    for name in ("tensorrt", "tensorrt-dense-int8"):
        probe = found[f"backend:{name}"]
        assert probe["ok"] and f", {TENSORRT[name]}, by " in probe["description"], probe
        assert probe["warnings"] == []
