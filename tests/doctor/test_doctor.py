"""doctor reports what a machine can run, and broken parts do not break it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bidiff_deploy import machine
from bidiff_deploy.doctor import examine as doctor
from bidiff_deploy.doctor import probes as doctor_probes
from bidiff_deploy.doctor.text import WIDTH, to_text
from bidiff_deploy.engines import BACKENDS, library
from bidiff_deploy.engines.onnxruntime.session import thread_count
from support.doctor_reports import FOUND, examine, run
from support.report_pages import examination


def test_this_machine(shared):
    found = examination(shared)
    assert set(found["backends"]) == set(BACKENDS)
    assert found["backends"]["onnxruntime"]["ok"] and found["backends"]["onnxruntime-stock"]["ok"]
    assert f"onnxruntime {found['modules']['onnxruntime']['version']}" in \
        found["backends"]["onnxruntime-stock"]["description"]
    assert found["python"]["executable"] == sys.executable
    for name in doctor.NEEDED:
        assert found["modules"][name]["ok"] and found["modules"][name]["version"]
    assert found["cpu"]["usable_cores"] > 0 and found["memory"]["total"] > 1 << 28
    if library.library_path() is not None:
        assert [k["name"] for k in found["library"]["kernels"]] == [
            kernel.name for kernel in library.kernels()]
        assert found["library"]["selected"] == library.selected_kernel()
        assert library.selected_kernel() in found["backends"]["onnxruntime"]["description"]
    for entry in found["missing"]:
        assert set(entry) == {"what", "for", "command", "group"} and entry["command"]
    text = to_text(found)
    commands = {entry["command"] for entry in found["missing"]}
    for line in text.splitlines():
        assert len(line) <= WIDTH or line.strip() in commands
    for name, backend in found["backends"].items():
        assert backend["ok"] or not backend["expected"]
        if backend["ok"] or found["gpu_found"]:
            assert f"\n  {'runs' if backend['ok'] else 'does not run'} " in text
            assert f" backend {name}: " in text


def test_nothing_optional_is_imported_in_this_process():
    code = ("import sys\nfrom bidiff_deploy.doctor import examine as doctor\n"
            "doctor.examine(lambda name: {'ok': False, 'reason': 'no', 'path': None})\n"
            "assert not {'numpy', 'onnx', 'onnxruntime', 'torch', 'PIL'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source, match", [
    ("raise RuntimeError('built for\\nanother machine')", "built for another machine"),
    ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
    ("raise OSError()", "OSError"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    ("import sys; sys.exit('go away')", "code 1: go away"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt|SIGINT"),
    ("this is no Python", "invalid syntax"),
    ("print('bidiff-probe: hello')\nraise ValueError('late')", "late")])
def test_a_broken_module_is_a_sentence(tmp_path, monkeypatch, source, match):
    (tmp_path / "brittle.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor_probes.run("module:brittle")
    assert found["ok"] is False and re.search(match, found["reason"]), found
    assert "\n" not in found["reason"]


def test_a_module_that_hangs_or_talks(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    (tmp_path / "talker.py").write_text(
        "import atexit, os\n__version__ = 3.5\nprint('x' * 100000)\natexit.register(os.abort)")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "did not answer" in doctor_probes.run("module:slow", timeout=1)["reason"]
    assert doctor_probes.run("module:talker") == {"ok": True, "version": "3.5"}


def test_modules_of_the_working_folder_are_not_tried(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise RuntimeError('planted')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert doctor_probes.run("module:numpy")["ok"]


def test_a_broken_optional_module_is_reported_and_the_rest_continues(monkeypatch):
    report = examine(monkeypatch, torch={"ok": False, "reason": "ImportError: libcudart.so.12"})
    assert any("torch is installed but cannot be imported: ImportError: libcudart.so.12" in line
               for line in report["warnings"])
    assert [entry["what"] for entry in report["missing"]] == ["torch"]
    assert "--force-reinstall" in report["missing"][0]["command"]
    code, out, err = run(monkeypatch, report=report)
    assert code == 0 and err == "" and "\n  torch          broken (ImportError: libcudart" in out


def test_without_numpy_nothing_else_is_blamed(monkeypatch):
    broken = {"ok": False, "reason": "it ended the process with signal SIGILL"}
    report = examine(monkeypatch, backend=broken, kernels=broken, **{"module:numpy": broken})
    assert [entry["what"] for entry in report["missing"]] == ["numpy"]
    code, _, err = run(monkeypatch, report=report)
    assert code == 1 and doctor.first_remedy(report) in err and "numpy>=1.24" in err


def test_missing_extras_are_exit_code_0_with_their_command(monkeypatch):
    report = examine(monkeypatch, absent=("torch", "openvino", "polygraphy", "tensorrt", "pycuda"))
    assert report["warnings"] == []
    missing = {entry["what"]: entry["command"] for entry in report["missing"]}
    # What NVIDIA's is for is of no use without a driver.
    assert set(missing) == {"torch", "openvino", "polygraphy"}
    assert missing["torch"] == doctor.pip("install", "torch>=2.4")
    assert sys.executable in missing["torch"] and "'torch>=2.4'" in missing["torch"]
    code, out, err = run(monkeypatch, report=report)
    assert code == 0 and err == ""
    # On a line of its own, to be copied.
    assert missing["torch"] in [line.strip() for line in out.splitlines()]


def test_two_runtimes_of_one_name_are_a_warning(monkeypatch):
    report = examine(monkeypatch, installed=("onnxruntime", "onnxruntime-gpu"))
    (warning,) = report["warnings"]
    assert "onnxruntime and onnxruntime-gpu are both installed" in warning
    assert "uninstall -y onnxruntime onnxruntime-gpu" in warning
    assert "install 'onnxruntime-gpu[cuda,cudnn]>=1.21'" in warning
    code, out, err = run(monkeypatch, report=report)
    assert code == 0 and "warning" in out


def test_no_backend_is_exit_code_1(monkeypatch):
    report = examine(monkeypatch, installed=(), absent=("onnxruntime",),
                     backend={"ok": False, "reason": "onnxruntime is not installed"})
    assert not doctor.can_run(report)
    for arguments in ((), ("--json",)):
        code, out, err = run(monkeypatch, *arguments, report=report)
        assert code == 1 and err.startswith("error: no backend can run") and err.count("\n") == 1
        assert doctor.pip("install", "onnxruntime>=1.18") in err
    assert json.loads(out) == report
    assert "\n  does not run   backend onnxruntime: onnxruntime is not installed" in to_text(report)
    assert "\n  onnxruntime    not installed; for running models on the CPU" in to_text(report)


def test_a_missing_or_broken_op_library(monkeypatch):
    report = examine(monkeypatch, kernels={"ok": True, "path": None, "kernels": [],
                                           "selected": None, "reason": "it is not built"})
    (entry,) = report["missing"]
    assert entry["what"] == "op library" and "--force-reinstall --no-deps ." in entry["command"]
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    report = examine(monkeypatch, kernels={"ok": False,
                                           "reason": "it ended the process with SIGBUS"})
    assert report["missing"][0]["command"].startswith("apt-get install g++ && ")
    assert "the op library cannot be used: it ended the process" in report["warnings"][0]
    assert "SIGBUS" in to_text(report)
    assert "(in" not in report["missing"][0]["command"]  # to be copied as it is
    report = examine(monkeypatch, kernels={**FOUND["kernels"], "selected": None,
                                           "reason": "BIDIFF_KERNEL: there is no kernel 'x'"})
    assert "BIDIFF_KERNEL" in report["warnings"][0] and report["missing"] == []


def test_a_forced_kernel_that_does_not_exist(monkeypatch):
    if library.library_path() is None:
        pytest.skip(library.missing_reason())
    monkeypatch.setenv("BIDIFF_KERNEL", "quantum")
    found = doctor_probes.run("kernels")
    assert found["ok"] and found["selected"] is None and "quantum" in found["reason"]
    assert [k["name"] for k in found["kernels"]] == [kernel.name for kernel in library.kernels()]
    backend = doctor_probes.run("backend:onnxruntime")
    assert not backend["ok"] and "quantum" in backend["reason"]


def test_engines_use_the_cores_that_they_may(monkeypatch):
    for usable, threads in ((0.5, 1), (1.5, 1), (3, 3)):
        monkeypatch.setattr(machine, "usable_cores", lambda usable=usable: usable)
        assert thread_count(None) == threads and thread_count(7) == 7
    assert examine(monkeypatch)["warnings"] == []


def test_requirements_are_those_of_the_package():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    stated = set(re.findall(r'"([A-Za-z0-9-]+(?:\[[a-z,]+\])?>=[0-9.]+(?:,<\d+)?)"', text))
    ours = {requirement for requirement, _ in doctor.NEEDED.values()}
    ours |= {doctor.OPTIONAL["onnxruntime"][0], doctor.OPTIONAL["torch"][0], doctor.GPU_RUNTIME,
             doctor.NVRTC}
    assert ours <= stated, ours - stated
    base = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M).group(1)
    needed = {requirement for requirement, _ in doctor.NEEDED.values()}
    assert set(re.findall(r'"([^"]+)"', base)) - needed == {"click>=8.1"}


X86 = """processor\t: 0
model name\t: A CPU @ 2.50GHz
flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni amx_tile
processor\t: 1
model name\t: another
flags\t\t: fpu
"""


ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd40\n"


def test_instruction_sets():
    found = machine.cpu(X86, "x86_64")
    assert found["model"] == "A CPU @ 2.50GHz"
    assert found["isa"] == {"AVX2": True, "AVX-512 F": True, "AVX-512 BW": True,
                            "AVX-512 VNNI": True, "AVX-512 VPOPCNTDQ": False,
                            "AVX-512 BF16": False, "AMX": True, "AMX INT8": False,
                            "AMX BF16": False}
    assert machine.cpu(ARM, "aarch64")["isa"] == {"NEON": True, "dot product": True, "I8MM": True,
                                                  "BF16": False, "SVE": False}
    assert machine.cpu("", "arm64")["isa"] == {"NEON": True, "dot product": None, "I8MM": None,
                                               "BF16": None, "SVE": None}
    assert set(machine.cpu("", "x86_64")["isa"].values()) == {None}
    assert machine.cpu("", "riscv64")["isa"] == {}


def test_memory_and_cores_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    found = machine.memory()
    assert found["total"] == 1 << 30 and found["available"] in (None, (1 << 30) - 10 ** 9)
    assert machine.usable_cores() == 0.5
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.memory()["total"] > 1 << 30 or machine.memory()["total"] is None
    assert machine.usable_cores() >= 1


def test_text_of_what_is_unknown(monkeypatch):
    report = examine(monkeypatch)
    report["cpu"]["isa"] = {}
    report["memory"] = {"total": None, "available": None}
    text = to_text(report)
    assert "unknown processor type" in text and "unknown, unknown available" in text
    report["cpu"]["isa"] = {"NEON": True, "SVE": False, "BF16": None}
    assert "NEON; not SVE; unknown: BF16" in to_text(report)
    json.dumps(report)
