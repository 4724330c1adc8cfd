"""A stand-in for TensorRT whose engines compute, for tests on machines without a GPU.

The module ``tensorrt`` that it gives has the names of the version asked for (tests/tensorrt_names)
and no others, and refuses what TensorRT refuses. Our plugin's nodes run by the plugin's own C++
code on the emulated CUDA driver (engines/tests/emulated_cuda), other nodes by ONNX Runtime on the
CPU; device memory is the emulated driver's, streams can be captured as CUDA graphs, and cuda-python
(``cuda.bindings.driver``) works on the same driver.

In a process of its own, which is the way to everything:

    done = tensorrt_stand_in.run(code_or_file, cache, "argument", version="10.3.0")
    assert done.returncode == 0, done.stdout + done.stderr

``code_or_file`` is Python's text (str) or a file (Path); ``cache`` an empty folder, such as
``tmp_path``, for compiled kernels; ``version`` one of ``VERSIONS``. In that process ``import
tensorrt`` is the stand-in, BIDIFF_TENSORRT_PLUGIN names the plugin, libcuda.so.1 is the emulated
driver, XDG_DATA_HOME is in ``cache``, and tests/ can be imported from.

In this process, without cuda-python, whose libcuda.so.1 is what the process began with:

    with tensorrt_stand_in.in_process(cache, version="10.3.0") as trt: ...

Further environment, by keyword, for both:

    BIDIFF_EMULATED_GPUS      architectures, "80" (one GPU) if not given
    BIDIFF_EMULATED_MEMORY    bytes of the GPU: weights, activations and buffers are taken of it
    BIDIFF_EMULATED_FAIL      "cuMemAlloc=2": functions of the driver that fail
    BIDIFF_STAND_IN_FAIL      "build,deserialize,context,enqueue": which of them fail
    BIDIFF_STAND_IN_PLUGIN    version of TensorRT that the plugin says it was built for
    BIDIFF_TENSORRT_PLUGIN    "": the plugin is not named

``read_plan(bytes)`` tells how a plan was built, as a dict, and its graph.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import emulated_cuda, native, tensorrt_names
from support.waiting import HANG_SECONDS

VERSIONS = tensorrt_names.VERSIONS
_ROOT = Path(__file__).parents[3]
_HERE = Path(__file__).parent


def plugin() -> Path:
    """The plugin library, built once and kept between runs; skips where it cannot be built."""
    emulated_cuda.stand_in()
    return (native.built(native.PLUGIN, "bidiff_tensorrt_node_runner")
            / "libbidiff_tensorrt_node_runner.so")


def _variables(cache: Path, version: str, changed: dict[str, str]) -> dict[str, str]:
    full = tensorrt_names.table(version)["version"]
    return emulated_cuda.variables(cache, **{
        "BIDIFF_EMULATED_GPUS": "80", "BIDIFF_STAND_IN_TENSORRT": version,
        "BIDIFF_STAND_IN_PLUGIN": ".".join(full.split(".")[:3]),
        "BIDIFF_TENSORRT_PLUGIN": str(plugin()), "XDG_DATA_HOME": str(cache / "data"), **changed})


def environment(cache: Path, version: str = "10.3.0", **changed: str) -> dict[str, str]:
    """All of the environment in which a new Python has the stand-in."""
    driver = cache / "driver" / "libcuda.so.1"
    if not driver.exists():
        driver.parent.mkdir(parents=True)
        # A copy: built anew while a process runs, it would be loaded there twice, as two machines.
        shutil.copyfile(emulated_cuda.stand_in(), driver)
    made = {**os.environ, **_variables(cache, version, {
        "BIDIFF_LIBCUDA": str(driver), "BIDIFF_NVRTC": str(driver), **changed})}
    for name, folders in (("LD_LIBRARY_PATH", [driver.parent]),
                          ("PYTHONPATH", [_HERE / "site", _HERE.parents[1], _ROOT])):
        made[name] = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(name)])])
    return made


def run(program: str | Path, cache: Path, *arguments: str, version: str = "10.3.0",
        **changed: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own with the stand-in; ``program`` is text, or a file."""
    start = [str(program)] if isinstance(program, Path) else ["-c", program]
    return subprocess.run([sys.executable, *start, *arguments], text=True, capture_output=True,
                          timeout=HANG_SECONDS, env=environment(cache, version, **changed))


@contextmanager
def in_process(cache: Path, version: str = "10.3.0", **changed: str) -> Iterator[Any]:
    """``tensorrt`` of this process, for as long as the block runs. The driver that the process
    opens first stays its driver, and a plugin that was loaded stays loaded."""
    from .module import make

    wanted = _variables(cache, version, {"BIDIFF_EMULATED_GPUS": ",".join(
        map(str, emulated_cuda.GPUS)), **changed})
    before = {name: os.environ.get(name) for name in wanted}
    module = sys.modules.get("tensorrt")
    os.environ.update(wanted)
    sys.modules["tensorrt"] = make(version)
    try:
        yield sys.modules["tensorrt"]
    finally:
        del sys.modules["tensorrt"]
        if module is not None:
            sys.modules["tensorrt"] = module
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def read_plan(plan: Any) -> Any:
    """(how a plan was built, its graph); raises ValueError for a damaged one."""
    from .building import read_plan as read

    return read(plan)
