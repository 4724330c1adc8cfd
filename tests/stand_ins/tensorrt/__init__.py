"""A stand-in for TensorRT whose engines compute, for tests on machines without a GPU.

Its module has the names of the version asked for (support/tensorrt_names.py) and no others. Nodes
of our plugin run by the plugin's own C++ code on the emulated CUDA driver
(engines/tests/emulated_cuda), others by ONNX Runtime on the CPU; device memory is that driver's,
its streams can be captured, and cuda-python works on it. What NVIDIA's own parser and builder prove
(``make nvidia``) is not judged.

    with in_process(cache, version="10.3.0") as trt: ...

There ``import tensorrt`` is the stand-in and BIDIFF_TENSORRT_PLUGIN names the plugin; ``cache`` is
a folder for compiled kernels. Further environment, by keyword:

    BIDIFF_EMULATED_FAIL      "cuMemAlloc=2": functions of the driver that fail
    BIDIFF_STAND_IN_FAIL      deserialize, context or enqueue: what of the stand-in fails
    BIDIFF_STAND_IN_PLUGIN    version of TensorRT that the plugin says it was built for
"""

from __future__ import annotations

import ctypes
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from support import emulated_cuda, native, tensorrt_names

_ROOT, _HERE = Path(__file__).parents[3], Path(__file__).parent


def plugin() -> Path:
    """The plugin library, built once and kept between runs; skips where it cannot be built."""
    emulated_cuda.stand_in()
    for module in ("cuda.bindings", "onnxruntime"):
        pytest.importorskip(module)
    return (native.built(native.PLUGIN, "bidiff_tensorrt_node_runner")
            / "libbidiff_tensorrt_node_runner.so")


def environment(cache: Path, version: str = "10.3.0", **changed: str) -> dict[str, str]:
    """All of the environment in which a new Python has the stand-in."""
    driver = cache / "driver" / "libcuda.so.1"
    if not driver.is_symlink():
        driver.parent.mkdir(parents=True)
        driver.symlink_to(emulated_cuda.stand_in())
    full = tensorrt_names.tables()[version]["version"]
    made = {**os.environ, **emulated_cuda.variables(cache, **{
        "BIDIFF_STAND_IN_TENSORRT": version,
        "BIDIFF_STAND_IN_PLUGIN": ".".join(full.split(".")[:3]),
        "BIDIFF_TENSORRT_PLUGIN": str(plugin()), "XDG_DATA_HOME": str(cache / "data"), **changed})}
    for name, folders in (("LD_LIBRARY_PATH", [driver.parent]),
                          ("PYTHONPATH", [_HERE / "site", _HERE.parents[1], _ROOT])):
        made[name] = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(name)])])
    return made


@contextmanager
def in_process(cache: Path, version: str = "10.3.0", **changed: str) -> Iterator[Any]:
    """``tensorrt`` of this process and its children, or here TensorRT-RTX's module for its version,
    for as long as the block runs. GPUs are those of ``emulated_cuda.GPUS``."""
    wanted = environment(cache, version, **changed)
    from .module import make

    ctypes.CDLL(str(emulated_cuda.stand_in()))  # whose name is libcuda.so.1
    assert hasattr(ctypes.CDLL("libcuda.so.1"), "bidiff_emulated_launch"), "another driver is open"
    name = "tensorrt_rtx" if version == tensorrt_names.RTX else "tensorrt"
    with mock.patch.dict(os.environ, wanted), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, make(version))
        patch.setitem(sys.modules, "pycuda", None)
        yield sys.modules[name]
    # Which pytest has as a folder of tests, for which inspect must not remember this one's file.
    vars(inspect)["_filesbymodname"].pop(name, None)
