"""check of backend onnxruntime-cuda on the emulated driver: every part of the GPU's own run."""

from __future__ import annotations

import json

import pytest

from support import emulated_cuda, forked
from support.check_setup import TIMES, damaged

pytest.importorskip("torch")
pytest.importorskip("polygraphy")


@pytest.mark.parametrize("wrong", [None, "d8.c2.words"])
def test_every_part_is_judged_in_the_gpus_own_run(reference, tmp_path, wrong) -> None:
    def flip(words):
        words[0, 0, 0, 0] ^= 1

    bundle = reference.bundle("tiny", TIMES)
    if wrong:
        bundle = damaged(bundle, tmp_path / "b", wrong, flip)
    done = forked.command(
        "check", bundle, reference.checkpoint("tiny"), "--backend", "onnxruntime-cuda", "--size",
        "16x16", "--timesteps", "400", "--threads", "1", "--json",
        environment=emulated_cuda.variables(tmp_path, BIDIFF_CUDA_ON_CPU="1",
                                            BIDIFF_EMULATED_GPUS="80"))
    assert done.returncode == bool(wrong), done.stderr
    found = json.loads(done.stdout)
    assert "emulated sm_80" in found["engine"] and found["steps"][0]["differing"] == 0
    assert len(found["layers"]) == 28 and len(found["segments"]) == 64
    failed = {verdict["name"] for verdict in found["verdicts"] if not verdict["passed"]}
    assert failed == ({"decoder.8.conv2", "400"} if wrong else set())
    assert all(part["rounding"] <= 1 for part in found["segments"])
