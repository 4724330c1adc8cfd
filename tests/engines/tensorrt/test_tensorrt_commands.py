"""The commands with the TensorRT backends, on a stand-in for TensorRT that computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bidiff_deploy.cli import group
from bidiff_deploy.doctor import probes
from bidiff_deploy.engines import TENSORRT
from stand_ins import tensorrt as tensorrt_stand_in
from support.tensorrt_building import build, static

pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings")


def command(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(group, [*map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_commands(trt, tiny, reference, tmp_path):
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(tmp_path / "in.png")
    upscale = ("upscale", tiny, tmp_path / "in.png", "-o", tmp_path / "out.png",
               "--backend", "tensorrt", "--device", "0", "--quiet")
    code, _, told = command(*upscale)
    assert code == 1 and told.startswith("error: there is no plugin plan") and "`" in told
    assert told.count("\n") == 1
    for variant in ("plugin", "dense"):
        build(tiny, static(1, 16, 24), variant=variant)
    code, _, told = command(*upscale)
    assert code == 0 and Image.open(tmp_path / "out.png").size == (24, 16), told
    code, found, told = command(
        "bench", tiny, "--size", "16x24", "--against", "tensorrt-dense,tensorrt-dense-int8",
        "--rounds", "1", "--json", "--quiet", "--threads", "1", "--device", "0")
    assert code == 0, told
    result = json.loads(found)
    assert [one["name"] for one in result["measured"]] == ["packed", "tensorrt-dense"]
    assert all(one["snr"] > 100 for one in result["measured"][1:])
    assert "there is no dense-int8 plan" in result["unavailable"]["tensorrt-dense-int8"]
    pytest.importorskip("torch")
    pytest.importorskip("polygraphy")
    code, found, told = command(
        "check", tiny, reference.checkpoint("tiny"), "--options", reference.options("tiny"),
        "--backend", "tensorrt", "--device", "0", "--timesteps", "400", "--size", "16x24",
        "--threads", "1")
    assert code == 0, found + told
    assert "tensorrt 10.3.0" in found and "only CPU backends return them" in found


def test_the_doctor_builds_and_runs_a_plan(trt, monkeypatch):
    """Each probe in a process of its own, with this one's sys.path."""
    monkeypatch.syspath_prepend(Path(tensorrt_stand_in.__file__).parent / "site")
    found = probes.run("plugin")
    assert found["ok"] and found["tensorrt"].startswith("10.3.0"), found
    found = probes.run("backend:tensorrt")
    assert found["ok"] and found["warnings"] == [], found
    assert f", {TENSORRT['tensorrt']}, by cuda-python" in found["description"]
