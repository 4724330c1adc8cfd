"""tools/gpu_check: which GPU's clocks are read, and the ONNX Runtime baseline's variants."""

from __future__ import annotations

import ctypes.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from bidiff_deploy.engines.onnxruntime.cuda_provider import Target, cuda_target
from bidiff_deploy.errors import EngineError
from support import emulated_cuda
from tools.checks import gpu_state, reference
from tools.gpu_check import stock


def test_clocks_are_those_of_the_gpu_by_its_place(tmp_path, monkeypatch):
    """nvidia-smi counts GPUs in another order than CUDA."""
    def get(handle, device):
        handle._obj.value = 40 + device
        return 0

    def place(text, size, handle):
        text.value = f"0000:{handle.value}:00.0".encode()
        return 0
    driver = SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGet=get, cuDeviceGetPCIBusId=place)
    monkeypatch.setattr(gpu_state.ctypes, "CDLL", lambda name: driver)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/asked\necho "1, 2, 3, 4, 5, 6, 7, 8"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    state = gpu_state.gpu_state(1)
    assert (tmp_path / "asked").read_text() == "--id=0000:41:00.0\n"
    assert state["pci_bus_id"] == "0000:41:00.0" and state["driver_version"] == "8"
    driver.cuDeviceGet = lambda handle, device: 101
    assert gpu_state.gpu_state(1) is None
    del driver.cuDeviceGetPCIBusId, driver.cuDeviceGet
    assert gpu_state.gpu_state(1) is None


def test_no_driver_no_place(monkeypatch):
    monkeypatch.setenv("BIDIFF_LIBCUDA", "/no/libcuda.so")
    assert gpu_state.pci_bus_id(0) is None
    monkeypatch.setenv("BIDIFF_LIBCUDA", ctypes.util.find_library("c") or "libc.so.6")
    assert gpu_state.pci_bus_id(0) is None  # it opens, and is no driver


def test_the_baseline_may_try_everything(monkeypatch):
    monkeypatch.delenv("BIDIFF_CUDA_ON_CPU", raising=False)
    made = stock.variants(cuda_target(2, cuda_graph=True))
    assert {name: options.get("prefer_nhwc") for name, options in made.items()} == {
        "NCHW": None, "NHWC": "1"}
    for options in made.values():
        assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE" and options["device_id"] == "2"


def test_a_variant_that_fails_is_tried_without_graph(monkeypatch):
    target = Target("cuda", 0, "CUDAExecutionProvider", {"enable_cuda_graph": "1"})
    given = []

    def times(ort, file, target, options, *rest):
        given.append(options)
        if options["enable_cuda_graph"] == "1":
            raise RuntimeError("graph capture\n is not possible")
        return [3.0, 1.0, 2.0]
    monkeypatch.setattr(stock, "_times", times)
    found = stock._time_variant(None, Path(), target, target.options, 1, 16, 3, 1)
    assert found == {"ms": 2.0, "spread": 2.0, "cuda_graph": False} and len(given) == 2
    monkeypatch.setattr(stock, "_times", lambda *given: 1 / 0)
    assert stock._time_variant(None, Path(), target, target.options, 1, 16, 3, 1) == {
        "reason": "division by zero"}


def test_the_baseline_runs(tmp_path, monkeypatch):
    """Of ONNX Runtime's own operators; here by its CPU provider."""
    for name, value in emulated_cuda.variables(tmp_path, BIDIFF_CUDA_ON_CPU="1").items():
        monkeypatch.setenv(name, value)
    bundle = reference.reference_bundle("tiny", [400], tmp_path)
    found = stock.time_onnxruntime(bundle, 400, 1, 16, 2, 1)
    assert found["ms"] > 0 and found["variants"]["CPU"]["ms"] == found["ms"]
    assert found["what"].endswith("no operators of ours, CPU, no CUDA graph")
    monkeypatch.setattr(stock, "_times", lambda *given: 1 / 0)
    with pytest.raises(EngineError, match="division by zero"):
        stock.time_onnxruntime(bundle, 400, 1, 16, 2, 1)
