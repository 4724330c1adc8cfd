"""What this machine can do with bundles, what is missing, and the command that installs it.

Nothing optional is imported in this process: ``probes`` tries everything in other processes, so a
broken module is reported instead of crashing this one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import machine
from ..engines import BACKENDS, ON_GPU, RTX, TENSORRT
from ..version import __version__
from .probes import run

# Import name -> (what pip installs, what needs it). Versions as in pyproject.toml.
NEEDED = {
    "numpy": ("numpy>=1.24", "everything"),
    "onnx": ("onnx>=1.16", "export, and reading the graphs of bundles"),
    "safetensors": ("safetensors>=0.4", "reading and packing checkpoints"),
    "yaml": ("PyYAML>=6", "options files and recipes"),
    "PIL": ("Pillow>=10.1", "images"),
    "jinja2": ("jinja2>=3.1", "pages: upscale --compare and report"),
}
OPTIONAL = {
    "onnxruntime": ("onnxruntime>=1.18", "running models on the CPU"),
    "torch": ("torch>=2.4", "training, .pth checkpoints, check and bench against torch"),
    "polygraphy": ("polygraphy", "comparing runners"),
    "openvino": ("openvino", "bench against OpenVINO"),
    "tensorrt": ("tensorrt", "building and running plans of TensorRT"),
    "cuda": ("cuda-python", "TensorRT's steps as CUDA graphs"),
    "pycuda": ("pycuda", "memory and copies of the TensorRT backends; cuda-python can replace it"),
}
ON_NVIDIA = ("tensorrt", "cuda", "pycuda")  # useless without an NVIDIA driver
# What a part that is missing is for: running anything, NVIDIA GPUs, and nothing that runs models.
RUNNING, GPU, OTHERS = "running", "gpu", "training and proof"
GPU_RUNTIME = "onnxruntime-gpu[cuda,cudnn]>=1.21"
NVRTC = "nvidia-cuda-nvrtc-cu12>=12.8,<13"
# Distributions that install the module onnxruntime and overwrite each other.
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino",
            "onnxruntime-rocm", "onnxruntime-qnn")
_PROBES = {"onnxruntime": "onnxruntime", "torch": "torch", "openvino": "openvino",
           "cuda": "cuda_python", "pycuda": "module:pycuda.driver"}
PLUGIN = "bidiff-deploy build-plugin --tensorrt-root DIR"
JETSON = Path("/etc/nv_tegra_release")  # TensorRT's wheels do not run on a Jetson
FROM_JETPACK = ("sudo apt-get install python3-libnvinfer && "
              "python3 -m venv --system-site-packages ~/bidiff")

Report = dict[str, Any]
Probe = Callable[[str], Mapping[str, Any]]


def examine(probe: Probe = run) -> Report:
    """Everything that ``bidiff-deploy doctor`` prints, JSON-ready.

    ``tool``, ``python``, ``system``; ``cpu`` and ``memory`` as ``machine`` returns them;
    ``library``: the op library's kernels; ``modules``: {import name: version or reason}; ``cuda``:
    the NVIDIA driver; ``gpu_found``: whether it has a GPU; ``gpu``: our kernels on each of its
    GPUs; ``plugin``: TensorRT's plugin; ``backends``: whether each ran a tiny bundle just now, the
    reason if not, and whether it was ``expected`` to, because nothing that it needs is missing;
    ``missing``: what is missing, what needs it, its ``group``, and the command that installs it;
    ``warnings``: sentences. A GPU that is not there is no fault, and nothing of it is missing.
    ``probe`` replaces ``probes.run`` in tests. Raises nothing.
    """
    modules = {name: _module(name, probe) for name in (*NEEDED, *OPTIONAL)}
    library, cuda = dict(probe("kernels")), dict(probe("cuda"))
    gpu, plugin = dict(probe("gpu")), dict(probe("plugin"))
    # Without TensorRT, or TensorRT-RTX, all of its backends fail for the same reason.
    lacking: dict[str, dict[str, Any]] = {}
    for names, there in ((TENSORRT, modules["tensorrt"]["ok"]), (RTX, _has_rtx())):
        if not there:
            lacking.update(dict.fromkeys(names, dict(probe(f"backend:{next(iter(names))}"))))
    backends = {name: dict(lacking.get(name) or probe(f"backend:{name}")) for name in BACKENDS}
    report: Report = {
        "tool": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": machine.cpu(), "memory": machine.memory(),
        "library": library, "modules": modules, "cuda": cuda,
        "gpu_found": bool(cuda["ok"] and cuda.get("devices")), "gpu": gpu,
        "plugin": plugin, "backends": backends,
    }
    for name, backend in backends.items():
        backend["expected"] = _expected(name, report)
    report["missing"] = _missing(report)
    report["warnings"] = _warnings(report, _installed(RUNTIMES))
    return report


def can_run(report: Report) -> bool:
    """Whether any backend ran a bundle."""
    return any(backend["ok"] for backend in report["backends"].values())


def first_remedy(report: Report) -> str | None:
    """The command that installs the first missing part that every backend needs, if any."""
    return next((entry["command"] for entry in report["missing"]
                 if entry["what"] in (*NEEDED, "onnxruntime")), None)


def group_of(module: str) -> str:
    """What a module is for: ``RUNNING``, ``GPU`` or ``OTHERS``."""
    if module in (*NEEDED, "onnxruntime"):
        return RUNNING
    return GPU if module in ON_NVIDIA else OTHERS


def pip(*arguments: str) -> str:
    """A pip command for this Python."""
    return shlex.join([sys.executable or "python3", "-m", "pip", *arguments])


def _module(name: str, probe: Probe) -> dict[str, Any]:
    """``ok``, ``installed``, and ``version`` or ``reason``."""
    try:
        installed = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):  # broken, but something is there
        installed = True
    if not installed:
        return {"ok": False, "installed": False, "reason": "not installed"}
    return {"installed": True, **probe(_PROBES.get(name, f"module:{name}"))}


def _missing(report: Report) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []

    def add(what: str, purpose: str, command: str, group: str) -> None:
        found.append({"what": what, "for": purpose, "command": command, "group": group})

    nvidia = report["cuda"]["ok"]
    for name, module in report["modules"].items():
        requirement, purpose = (NEEDED.get(name) or OPTIONAL[name])
        if module["ok"] or (name in ON_NVIDIA and not nvidia):
            continue
        if name == "onnxruntime" and nvidia:
            requirement, purpose = GPU_RUNTIME, "running bundles"
        if name == "tensorrt" and JETSON.is_file():
            add(name, f"{purpose}, from JetPack", FROM_JETPACK, GPU)
            continue
        if name == "tensorrt":  # for the driver's major version of CUDA
            requirement = f"tensorrt-cu{12 if str(report['cuda']['version']) < '13' else 13}"
        again = ["--force-reinstall"] if module["installed"] else []
        add(name, purpose, pip("install", *again, requirement), group_of(name))
    library = report["library"]
    if report["modules"]["numpy"]["ok"] and not (library["ok"] and library["path"]):
        compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        add("op library", "packed binary convolutions, without which bundles run slowly; run this "
            "in the source folder", ("" if compiler else "apt-get install g++ && ")
            + pip("install", "--force-reinstall", "--no-deps", "."), RUNNING)
    if any("NVRTC, which compiles them, was not found" in gpu["reason"]
           for gpu in _gpus(report) if not gpu["ok"]):
        add("NVRTC", "compiling the GPU kernels", pip("install", NVRTC), GPU)
    if report["modules"]["tensorrt"]["ok"] and nvidia and not report["plugin"]["ok"]:
        add("TensorRT plugin", "backend tensorrt; DIR contains TensorRT's headers", PLUGIN,
            GPU)
    providers = report["modules"]["onnxruntime"].get("providers", [])
    if nvidia and providers and "CUDAExecutionProvider" not in providers:
        add("CUDAExecutionProvider", "ONNX Runtime on the NVIDIA GPU",
            f"{pip('uninstall', '-y', *_installed(RUNTIMES))} && {pip('install', GPU_RUNTIME)}",
            GPU)
    return found


def _warnings(report: Report, runtimes: list[str]) -> list[str]:
    """What is installed but broken. ``runtimes``: installed distributions of onnxruntime."""
    found = []
    if len(runtimes) > 1:
        keep = GPU_RUNTIME if "onnxruntime-gpu" in runtimes else OPTIONAL["onnxruntime"][0]
        found.append(f"{' and '.join(runtimes)} are both installed and overwrite each other's "
                     f"files; keep one: {pip('uninstall', '-y', *runtimes)} && "
                     f"{pip('install', keep)}")
    for name, module in report["modules"].items():
        if module["installed"] and not module["ok"]:
            found.append(f"{name} is installed but cannot be imported: {module['reason']}")
    library = report["library"]
    if not library["ok"] or (library["path"] and library["reason"]):
        found.append(f"the op library cannot be used: {library['reason']}")
    found += [f"GPU {gpu['ordinal']} cannot be used: {gpu['reason']}" for gpu in _gpus(report)
              if not gpu["ok"]]
    for name, backend in report["backends"].items():
        found += [f"backend {name}: {line}" for line in backend.get("warnings", [])]
        if not backend["ok"] and backend["expected"] and report["modules"]["onnxruntime"]["ok"]:
            found.append(f"backend {name} did not run a bundle: {backend['reason']}")
    return found


def _expected(name: str, report: Report) -> bool:
    """Whether a backend should run, because nothing it needs is reported as missing."""
    if name in ON_GPU and not report["cuda"]["ok"]:
        return False
    if name in RTX:
        return _has_rtx()
    return name not in TENSORRT or bool(report["modules"]["tensorrt"]["ok"] and (
        TENSORRT[name] != "plugin" or report["plugin"]["ok"]))


def _has_rtx() -> bool:
    """Whether TensorRT-RTX is installed."""
    return importlib.util.find_spec("tensorrt_rtx_bindings") is not None


def _gpus(report: Report) -> list[dict[str, Any]]:
    """What the op library reports for each GPU; empty if it or the driver cannot be used."""
    return list(report["gpu"].get("devices", []))


def _installed(names: tuple[str, ...]) -> list[str]:
    """Which of these distributions are installed."""
    found = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except Exception:  # absent, or its metadata cannot be read
            continue
        found.append(name)
    return found
