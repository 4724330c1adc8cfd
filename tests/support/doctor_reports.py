"""Reports of ``doctor`` on machines that tests make up."""

from __future__ import annotations

import importlib.metadata

from click.testing import CliRunner

from bidiff_deploy.cli import group
from bidiff_deploy.doctor import examine as doctor

FOUND = {"kernels": {"ok": True, "path": "/lib/ops.so", "selected": "avx2", "reason": "",
                     "kernels": [{"name": "avx512bw", "compiled": True, "supported": False,
                                  "reason": "this CPU lacks AVX-512 BW"},
                                 {"name": "avx2", "compiled": True, "supported": True,
                                  "reason": ""}]},
         "cuda": {"ok": False, "reason": "no driver: libcuda.so.1 is absent"},
         "gpu": {"ok": True, "embedded": [], "toolkit": "", "nvrtc": [], "devices": []},
         "onnxruntime": {"ok": True, "version": "1.20.0", "providers": ["CPUExecutionProvider"]},
         "torch": {"ok": True, "version": "2.5.0", "cuda": None, "cuda_available": False}}


RTX = "tensorrt_rtx_bindings"  # absent in every report that is made here


DRIVER = {"ok": True, "version": "12.4", "devices": [
    {"name": "GPU", "memory": 24 << 30, "compute_capability": "8.9"}]}


def examine(monkeypatch, installed=("onnxruntime",), absent=(), **changed):
    """A report of a machine on which probes find ``FOUND``, changed, and else all is well.

    ``installed``: distributions. ``absent``: modules that are not there.
    """
    def probe(name):
        if name in changed:
            return changed[name]
        if name.startswith("backend:"):
            return changed.get("backend", {"ok": True, "description": f"{name}, 1 thread",
                                           "warnings": []})
        return FOUND.get(name, {"ok": True, "version": "1.0"})

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.20.0"
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor.importlib.util, "find_spec",
                        lambda name: None if name in (*absent, RTX) else object())
    return doctor.examine(probe)


def run(monkeypatch, *arguments, report=None) -> tuple[int, str, str]:
    if report is not None:
        monkeypatch.setattr(doctor, "examine", lambda: report)
    result = CliRunner().invoke(group, ["doctor", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
