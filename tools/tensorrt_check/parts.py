"""The parts of a check; each runs in a separate process."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from pathlib import Path

from tools.checks.gpu_state import gpu_state, package_versions
from tools.checks.processes import Options, Result, run_apart

from . import building, native, parity, speed

HERE = Path(__file__).resolve().parent
TIMEOUT = 4 * 3600.0  # a build takes minutes, on a Jetson many
# A failure of these is exit code 1; the others only measure.
PROOFS = ("machine", "parity-plugin", "parity-dense", "parity-dense-int8", "images")


def run(name: str, options: Options, timeout: float = TIMEOUT) -> Result:
    """Run a part in a separate process; see ``run_apart``."""
    return run_apart(HERE, name, options, timeout=timeout)


def machine(options: Options) -> Result:
    """The GPU, TensorRT, and versions of the packages."""
    from bidiff_deploy.engines.gpu import library as cuda_library
    from bidiff_deploy.engines.tensorrt.api import open_tensorrt
    info = cuda_library.device_info(options["device"])
    api = open_tensorrt()
    api.builder()  # raises if driver or GPU cannot be used
    return {"device": vars(info), "tensorrt": api.name, "python": platform.python_version(),
            "system": platform.platform(), "state": gpu_state(info.ordinal),
            "packages": package_versions(
                "bidiff-deploy", "numpy", "onnx", "pycuda", "cuda-python", "cuda-bindings",
                "onnxruntime", "onnxruntime-gpu", "nvidia-cuda-nvrtc-cu12")}


PARTS: dict[str, Callable[[Options], Result]] = {
    "machine": machine, "plugin": native.plugin,
    **{f"parity-{variant}": functools.partial(parity.steps, variant)
       for variant in parity.BACKENDS},
    "images": parity.images, "build": functools.partial(building.build, building.PLUGIN),
    "speed-network": functools.partial(speed.speed, None),
    "speed-demo": functools.partial(speed.speed, "demo"), "memory": building.memory,
    "build-dense": functools.partial(building.build, building.DENSE), "trtexec": native.trtexec}
