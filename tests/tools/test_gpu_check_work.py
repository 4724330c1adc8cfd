"""tools/gpu_check: what a whole step costs at least, and how the table shows it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from bidiff_deploy.bundle.manifest import open_bundle
from bidiff_deploy.engines.gpu import library as cuda_library
from bidiff_deploy.networks.bi_diffsr.costs import count
from support import emulated_cuda
from tools.checks.reference import reference_bundle
from tools.gpu_check import table, work

pytestmark = pytest.mark.usefixtures("on_stand_in")


def test_the_work_of_a_step(tmp_path, monkeypatch):
    device = emulated_cuda.ordinal(90)
    bundle = reference_bundle("tiny", [400], tmp_path, precision="half")
    made = work.step_work(bundle, 1, 32, device)
    layers = count(open_bundle(bundle).config, 32, 32)
    assert made["operations"] == {"binary": 2 * layers.binary_macs, "float": 2 * layers.float_macs,
                                  "attention": 2 * layers.attention_macs}
    # Statistics, packing and sums of a normed half block; packing and sums of each other operator.
    assert made["launches"]["ours"] >= 16 * 3 + 6 and made["launches"]["others"] >= 10
    weights = made["weights"]
    assert weights["float16"] == 2 * sum(math.prod(layer.shape) for layer in layers.layers
                                         if layer.shape)
    assert weights["limit"] == weights["float16"] // 9
    # A bit for each binary weight, and what fills the kernels' tiles.
    bits = sum(math.prod(layer.shape) for layer in layers.layers if layer.binary)
    assert weights["binary"] > bits / 8 and weights["others"] > 0
    assert weights["step_constants"] > 0
    assert weights["ok"] == (weights["binary"] + weights["others"] <= weights["limit"])
    held = weights["binary"] + weights["others"]
    # Maps grow with batch and size, weights do not; in float32 maps take twice as much.
    eight, larger = (work.step_work(bundle, *given, device)["bytes"] - held
                     for given in ((8, 32), (1, 64)))
    maps = made["bytes"] - held
    assert maps > 0 and eight == 8 * maps and larger == 4 * maps
    exact = work.step_work(reference_bundle("tiny", [400], tmp_path), 1, 32, device)
    assert exact["bytes"] - sum(exact["weights"][name] for name in ("binary", "others")) == 2 * maps
    assert made["floor_ms"] is None  # of a GPU that does not tell its bandwidth
    told = dataclasses.replace(cuda_library.device_info(device), memory_bandwidth=2e12)
    monkeypatch.setattr(cuda_library, "device_info", lambda device: told)
    assert work.step_work(bundle, 1, 32, device)["floor_ms"] == pytest.approx(
        made["bytes"] / 2e9)


def test_the_table_shows_it():
    cost = {"bytes": 200_000_000, "floor_ms": 0.1, "launches": {"ours": 150, "others": 90},
            "operations": {"binary": 2e11, "float": 6.7e10, "attention": 2e9},
            "weights": {"binary": 6_000_000, "others": 5_000_000, "step_constants": 300_000,
                        "float16": 100_000_000, "limit": 11_111_111, "ok": True}}
    step = {"ok": True, "ms": 0.5, "spread": 0.04, "what": "ours", "work": cost}
    report = {"parts": {"step-ours": {"ok": True, "size": 256, "batches": {"1": step}}}}
    lines = [" ".join(line.split()) for line in table.to_text(report).splitlines()]
    assert "ours batch 1 0.500 +-2 % 5.0 x floor of 0.100" in lines
    assert ("batch 1: 200 MB moved at least; G operations: binary 200.0, float 67.0, attention "
            "2.0; launches: ours 150, others about 90") in lines
    assert ("weights on the device 11.00 MB (6.00 of it binary), within 1/9 of float16's 100.00 "
            "MB") in lines
    cost["weights"]["ok"], cost["floor_ms"] = False, None
    text = table.to_text(report)
    assert "MORE THAN 1/9" in text and "x floor" not in text
