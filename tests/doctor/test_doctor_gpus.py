"""doctor on machines with and without an NVIDIA GPU, its driver, TensorRT and our kernels."""

from __future__ import annotations

import subprocess

import pytest

from bidiff_deploy.doctor import examine as doctor
from bidiff_deploy.doctor import probes as doctor_probes
from bidiff_deploy.doctor.text import to_text
from bidiff_deploy.engines import ON_GPU, TENSORRT
from support.doctor_reports import DRIVER, FOUND, examine, run


def groups_of(text: str) -> dict[str, str]:
    """Title -> lines of each group of the text."""
    return dict(group.split(":\n", 1) for group in text.split("\n\n"))


@pytest.mark.parametrize("found", [False, True])
def test_a_gpu_that_is_not_there_is_no_fault(monkeypatch, found):
    lacking = {"ok": False, "reason": "no driver"}
    report = examine(monkeypatch, absent=("torch", "tensorrt", "pycuda"),
                     cuda=DRIVER if found else FOUND["cuda"],
                     **{f"backend:{name}": lacking for name in ON_GPU})
    assert report["gpu_found"] is found and {entry["group"] for entry in report["missing"]} == (
        {"training and proof", "gpu"} if found else {"training and proof"})
    assert [name for name, one in report["backends"].items() if one["expected"]] == [
        "onnxruntime", "onnxruntime-stock", *(["onnxruntime-cuda"] if found else [])]
    groups = groups_of(to_text(report))
    assert list(groups) == [*(["Warnings"] if found else []), "This machine", "Runs here",
                            f"With an NVIDIA GPU{'' if found else ' (none found)'}",
                            "For training and proof (upscaling needs none of these)"]
    assert "does not run" not in groups["Runs here"] and "torch" in list(groups.values())[-1]
    gpu = list(groups.values())[-2]
    assert ("does not run   backend tensorrt: no driver" in gpu) is found
    assert ("missing        CUDAExecutionProvider, for" in gpu) is found
    assert found or "backends       onnxruntime-cuda, tensorrt, tensorrt-dense, " in gpu
    code, _, err = run(monkeypatch, report=report)
    assert code == 0 and err == ""


def test_what_an_nvidia_machine_lacks_is_reported(monkeypatch):
    report = examine(monkeypatch, absent=("tensorrt", "pycuda"), cuda=DRIVER)
    missing = {entry["what"]: entry["command"] for entry in report["missing"]}
    assert set(missing) == {"tensorrt", "pycuda", "CUDAExecutionProvider"}
    assert "uninstall -y onnxruntime &&" in missing["CUDAExecutionProvider"]
    assert "onnxruntime-gpu" in missing["CUDAExecutionProvider"]
    assert "up to CUDA 12.4: GPU (compute capability 8.9, 24.0 GiB)" in to_text(report)


@pytest.mark.parametrize("driver, wheel", [("11.4", "tensorrt-cu12"), ("12.4", "tensorrt-cu12"),
                                           ("13.0", "tensorrt-cu13")])
def test_tensorrt_that_is_missing(monkeypatch, driver, wheel):
    not_there = {"ok": False, "installed": False, "reason": "not installed"}
    lacking = {"ok": False, "reason": "TensorRT is not installed; pip install tensorrt-cu12"}
    report = examine(monkeypatch, absent=("tensorrt", "pycuda"), cuda={**DRIVER, "version": driver},
                     plugin=lacking, cuda_python=not_there,
                     **{f"backend:{name}": lacking for name in TENSORRT})
    missing = {entry["what"]: entry["command"] for entry in report["missing"]}
    assert missing["tensorrt"] == doctor.pip("install", wheel)
    # A folder cuda of others is no cuda-python.
    assert missing["cuda"] == doctor.pip("install", "cuda-python") and "pycuda" in missing
    assert "TensorRT plugin" not in missing and report["warnings"] == []
    text = to_text(report)
    assert "backend tensorrt-dense: TensorRT is not installed" in text and "\n  plugin" not in text


def test_tensorrt_that_is_missing_on_a_jetson(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "JETSON", tmp_path / "nv_tegra_release")
    (tmp_path / "nv_tegra_release").write_text("# R36 (release), REVISION: 3.0")
    report = examine(monkeypatch, absent=("tensorrt",), cuda=DRIVER)
    missing = {entry["what"]: entry["command"] for entry in report["missing"]}
    assert missing["tensorrt"] == doctor.FROM_JETPACK


def test_tensorrt_that_is_missing_is_tried_but_once(monkeypatch):
    asked = []
    monkeypatch.setattr(doctor.importlib.util, "find_spec",
                        lambda name: None if name.startswith("tensorrt") else object())
    report = doctor.examine(lambda name: asked.append(name) or {
        "ok": not name.startswith("backend:tensorrt"), "version": "1.0", "reason": name,
        "providers": [], "path": "p", "devices": []})
    assert [name for name in asked if name.startswith("backend:tensorrt")] == [
        "backend:tensorrt", "backend:tensorrt-rtx"]
    for names in (doctor.TENSORRT, doctor.RTX):
        assert {report["backends"][name]["reason"] for name in names} == {
            f"backend:{next(iter(names))}"}


@pytest.mark.parametrize("probe, seconds", [
    ("backend:tensorrt-dense", doctor_probes.BUILD_TIMEOUT), ("torch", doctor_probes.TIMEOUT)])
def test_what_builds_a_plan_may_take_longer(probe, seconds, monkeypatch):
    def stopped(*_, timeout, **__):
        raise subprocess.TimeoutExpired("x", timeout)

    monkeypatch.setattr(doctor_probes.subprocess, "run", stopped)
    assert f"within {seconds:.0f} seconds" in doctor_probes.run(probe)["reason"]


def test_a_plugin_that_is_missing(monkeypatch):
    shown = "there is no plugin for TensorRT 10.3; build it with bidiff-deploy build-plugin"
    report = examine(monkeypatch, cuda=DRIVER, plugin={"ok": False, "reason": shown},
                     **{"backend:tensorrt": {"ok": False, "reason": shown},
                        "backend:tensorrt-dense": {"ok": False, "reason": "no memory"}})
    missing = {entry["what"]: entry["command"] for entry in report["missing"]}
    assert missing["TensorRT plugin"] == doctor.PLUGIN
    assert report["warnings"] == ["backend tensorrt-dense did not run a bundle: no memory"]
    assert f"\n  plugin         {shown[:60]}" in to_text(report)
    there = {"ok": True, "path": "/p.so", "tensorrt": "10.3.0", "built_for": "10.3.0",
             "interface": "IPluginV3", "embedded": ["80", "87"]}
    text = to_text(examine(monkeypatch, cuda=DRIVER, plugin=there))
    assert "/p.so, built for TensorRT 10.3.0, IPluginV3, kernels for sm_80 87" in text


def test_gpu_kernels(monkeypatch):
    lacking = ("no kernels for GPU 1 (T4, sm_75): this library was built without nvcc, and NVRTC, "
               "which compiles them, was not found (libnvrtc.so.12: absent)")
    gpu = {"ok": True, "embedded": [80, 90], "toolkit": "12.9", "nvrtc": [], "devices": [
        {"ordinal": 0, "ok": True, "architecture": 90, "kernels": "compiled with the library",
         "paths": ["and", "int8", "popc"], "path": "and"},
        {"ordinal": 1, "ok": False, "architecture": 75, "reason": lacking}]}
    report = examine(monkeypatch, gpu=gpu, cuda=DRIVER)
    shown = " ".join(to_text(report).split())
    assert "GPU kernels compiled by nvcc 12.9 for sm_80 90; GPU 0 (sm_90): compiled with the " \
           "library, path and of and, int8, popc; GPU 1 (sm_75): no kernels" in shown
    assert f"GPU 1 cannot be used: {lacking}" in report["warnings"]
    commands = {entry["what"]: entry["command"] for entry in report["missing"]}
    assert commands["NVRTC"] == doctor.pip("install", "nvidia-cuda-nvrtc-cu12>=12.8,<13")
    absent = examine(monkeypatch, gpu={"ok": False, "reason": "the op library is not built"},
                     cuda=DRIVER)
    assert "\n  GPU kernels    the op library is not built" in to_text(absent)
    nothing = to_text(examine(monkeypatch))
    assert "compiled at first use by NVRTC, which is not installed by pip" in nothing


def test_gpu_kernels_of_this_machine(tmp_path, monkeypatch):
    from support import emulated_cuda
    for name, value in emulated_cuda.variables(tmp_path, BIDIFF_EMULATED_GPUS="90,61").items():
        monkeypatch.setenv(name, value)
    driver, found = doctor_probes.run("cuda"), doctor_probes.run("gpu")
    assert [device["compute_capability"] for device in driver["devices"]] == ["9.0", "6.1"]
    new, old = found["devices"]
    assert new["ok"] and new["path"] == new["paths"][0] and new["kernels"].endswith("for sm_90")
    assert not old["ok"] and "compute capability 6.1" in old["reason"]
    monkeypatch.setenv("BIDIFF_LIBCUDA", "/no/libcuda.so")
    assert doctor_probes.run("gpu")["devices"] == []
    assert "no driver: /no/libcuda.so" in doctor_probes.run("cuda")["reason"]
