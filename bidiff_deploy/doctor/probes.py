"""What ``doctor`` tries, each in its own process, so that a crash affects nothing else.

``run(name)`` starts a process and returns what the probe found. A broken module may raise any error
while it is imported, hang, or end the process with a signal (an instruction that the processor
lacks): each is reported in a sentence.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import one_line

TIMEOUT = 120.0  # seconds; importing torch on a busy machine takes tens
BUILD_TIMEOUT = 600.0  # TensorRT's builder reads gigabytes, on small boards from slow cards
_MARK = "bidiff-probe:"  # modules may print on import, too
_CODE = ("import sys; sys.path[:] = sys.argv[2:]; "
         "from bidiff_deploy.doctor.probes import main; main(sys.argv[1])")


def run(probe: str, timeout: float | None = None) -> dict[str, Any]:
    """Result of ``PROBES[name]``, where ``probe`` is ``name`` or ``name:argument``.

    Returns the probe's dict with ``ok`` true, or ``{"ok": False, "reason": sentence}``.
    ``timeout``: seconds, by default longer for probes that build a TensorRT plan.
    """
    if timeout is None:
        timeout = BUILD_TIMEOUT if probe.startswith("backend:tensorrt") else TIMEOUT
    # The same modules as in this process, and none from the current folder.
    path = [entry for entry in sys.path if entry and os.path.isabs(entry)]
    try:
        done = subprocess.run([sys.executable, "-c", _CODE, probe, *path], text=True,
                              capture_output=True, timeout=timeout, errors="replace",
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {"ok": False, "reason": f"it did not answer within {timeout:.0f} seconds"}
    except OSError as error:
        return {"ok": False, "reason": f"no process could be started: {error.strerror or error}"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_MARK):
            return dict(json.loads(line[len(_MARK):]))
    if done.returncode < 0:
        try:
            name = signal.Signals(-done.returncode).name
        except ValueError:
            name = str(-done.returncode)
        return {"ok": False, "reason": f"it ended the process with signal {name}"}
    last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1][:200]
    return {"ok": False, "reason": f"it ended the process with code {done.returncode}: {last}"}


def main(probe: str) -> None:
    """Run one probe in this process and print its result as a marked line of JSON."""
    name, _, argument = probe.partition(":")
    try:
        result = {"ok": True, **PROBES[name](*([argument] if argument else []))}
    except Exception as error:
        text, kind = one_line(error), type(error).__name__
        named = isinstance(error, ImportError) and text != kind
        result = {"ok": False, "reason": f"{kind}: {text}" if named else text}
    print(f"\n{_MARK}{json.dumps(result)}", flush=True)
    os._exit(0)  # a module that crashes at exit has worked until then


def _module(name: str) -> dict[str, Any]:
    module = importlib.import_module(name)
    # The package's own version: onnxruntime-gpu and onnxruntime are one module.
    version = getattr(module, "__version__", None)
    return {"version": None if version is None else str(version)}


def _onnxruntime() -> dict[str, Any]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as the engines do
    import onnxruntime

    return {"version": onnxruntime.__version__,
            "providers": list(onnxruntime.get_available_providers())}


def _torch() -> dict[str, Any]:
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda,
            "cuda_available": torch.cuda.is_available()}


def _openvino() -> dict[str, Any]:
    import openvino

    return {"version": openvino.__version__, "devices": list(openvino.Core().available_devices)}


def _kernels() -> dict[str, Any]:
    from ..engines import library

    path = library.library_path()
    result: dict[str, Any] = {"path": None if path is None else str(path), "kernels": [],
                              "selected": None, "reason": ""}
    if path is None:
        return {**result, "reason": library.missing_reason()}
    result["kernels"] = [vars(kernel) for kernel in library.kernels()]
    try:
        result["selected"] = library.selected_kernel()
    except Exception as error:  # BIDIFF_KERNEL names a kernel that cannot run
        result["reason"] = str(error)
    return result


def _cuda() -> dict[str, Any]:
    import ctypes

    library = os.environ.get("BIDIFF_LIBCUDA") or (
        "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise OSError(f"no driver: {error}") from None
    if code := driver.cuInit(0):
        raise OSError(f"the NVIDIA driver does not start (cuInit returned {code})")
    number, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    driver.cuDeviceGetCount(ctypes.byref(count))
    devices = []
    for index in range(count.value):
        device, size, major, minor = (ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int(),
                                      ctypes.c_int())
        name = ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        devices.append({"name": name.value.decode(errors="replace"), "memory": size.value,
                        "compute_capability": f"{major.value}.{minor.value}"})
    return {"version": f"{number.value // 1000}.{number.value % 1000 // 10}", "devices": devices}


def _gpu() -> dict[str, Any]:
    """Our GPU kernels: what is compiled ahead, which NVRTC there is, and how each GPU loads them.
    """
    from ..engines import library
    from ..engines.gpu import library as cuda_library
    from ..engines.gpu.nvrtc_files import nvrtc_files
    from ..errors import EngineError

    if library.library_path() is None:
        raise EngineError(library.missing_reason())
    ahead = cuda_library.embedded()
    devices: list[dict[str, Any]] = []
    result = {"embedded": list(ahead.architectures), "toolkit": ahead.toolkit,
              "nvrtc": [str(file) for file in nvrtc_files()], "devices": devices}
    try:
        count = cuda_library.device_count()
    except EngineError:  # reported by _cuda
        return result
    for ordinal in range(count):
        info = cuda_library.device_info(ordinal)
        entry: dict[str, Any] = {"ordinal": ordinal, "ok": False,
                                 "architecture": info.architecture}
        devices.append(entry)
        try:
            forced = cuda_library.forced_path(ordinal)
            entry["kernels"] = cuda_library.load_kernels(ordinal, forced)
            entry["paths"] = list(cuda_library.paths(info.architecture))
            entry["path"] = entry["paths"][0] if forced == "auto" else forced
            entry["ok"] = True
        except EngineError as error:
            entry["reason"] = str(error)
    return result


def _cuda_python() -> dict[str, Any]:
    import importlib.metadata

    for name in ("cuda.bindings.driver", "cuda.cuda"):  # the second before 12.6
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:  # other packages install a folder cuda, too
            continue
        for distribution in ("cuda-bindings", "cuda-python"):
            try:
                return {"version": importlib.metadata.version(distribution)}
            except importlib.metadata.PackageNotFoundError:
                continue
        return {"version": None}
    return {"ok": False, "installed": False, "reason": "not installed"}


def _plugin() -> dict[str, Any]:
    """The plugin library for the installed TensorRT."""
    from ..engines.tensorrt.api import open_tensorrt

    api = open_tensorrt()
    library = api.plugin()
    return {"path": str(library.file), "tensorrt": api.name, "built_for": library.tensorrt,
            "interface": library.interface, "embedded": list(library.architectures)}


def _backend(name: str) -> dict[str, Any]:
    """Make a bundle of a tiny random network and predict one step with it."""
    import tempfile
    import warnings

    import numpy as np

    from .. import load_bundle
    from ..checkpoint.record import from_latent
    from ..engines import RTX, TENSORRT
    from ..engines.noise_predictor import NoisePredictor
    from ..export.write import export_bundle
    from ..networks.bi_diffsr.architecture import parameters
    from ..networks.bi_diffsr.config import NetworkConfig

    config = NetworkConfig(inner_channel=8, norm_groups=2, channel_mults=(1, 2), res_blocks=1,
                           image_size=16, fp_res=(), total_step=10, dynamic_group=2)
    random = np.random.default_rng(0)
    latent = {key: random.standard_normal(parameter.shape).astype(np.float32)
              for key, parameter in parameters(config).items()}
    checkpoint = from_latent(latent, config, name="doctor", scale=2, schedule={"total_steps": 10})
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = Path(folder) / "doctor.bundle"
        export_bundle(checkpoint, path, timesteps=(5,))
        if variant := {**TENSORRT, **RTX}.get(name):
            _build_plan(path, variant)
        with load_bundle(path, threads=1, backend=name) as engine:
            image = random.standard_normal((1, 3, 16, 16)).astype(np.float32)
            assert isinstance(engine, NoisePredictor)
            engine.predict(image, image, 5)
            description = engine.description
    return {"description": description,
            "warnings": [str(warning.message) for warning in caught
                         if issubclass(warning.category, RuntimeWarning)]}


def _build_plan(path: Path, variant: str) -> None:
    from ..bundle.manifest import open_noise_predictor
    from ..engines.tensorrt.api import open_tensorrt
    from ..engines.tensorrt.build.builder import build_plan
    from ..engines.tensorrt.profiles import Profile
    from ..engines.tensorrt.sidecar import RTX_VARIANTS

    # For this process only; the plan is deleted with the bundle.
    os.environ["BIDIFF_TENSORRT_PLANS"] = str(path.with_suffix(".plans"))
    shape = (1, 16, 16)
    # Only whether it runs matters: level 0, which old versions lack, times no kernels.
    level = None
    if variant not in RTX_VARIANTS and open_tensorrt().version >= (8, 6):
        level = 0
    build_plan(open_noise_predictor(path), Profile(shape, shape, shape), variant=variant,
               level=level, quiet=True)


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "module": _module,
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "openvino": _openvino,
    "kernels": _kernels,
    "cuda": _cuda,
    "gpu": _gpu,
    "cuda_python": _cuda_python,
    "plugin": _plugin,
    "backend": _backend,
}
