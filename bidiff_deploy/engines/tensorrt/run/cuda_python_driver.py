"""The CUDA driver by cuda-python: captured graphs, and everything if pycuda is not installed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....errors import one_line
from ...gpu.failures import CudaError

__all__ = ["CudaPythonDriver", "CudaPythonGraphs", "find"]

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not in step with the legacy stream of other code


def find() -> tuple[Any, str]:
    """(the module with the driver's functions, or None; the reason for None)"""
    try:
        try:
            from cuda.bindings import driver
        except ImportError:  # cuda-python before 12.6
            from cuda import cuda as driver
    except ModuleNotFoundError:
        return None, "not installed"
    except Exception as error:  # a broken one may raise anything
        return None, one_line(error)
    return driver, ""


class _Calls:
    """Calls of the driver's functions; their errors become CudaError."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding
        version = _version(binding)
        self.name = f"cuda-python {version}" if version else "cuda-python"

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            code, *values = getattr(self._binding, function)(*arguments)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            # The driver or binding lacks the function, or (ValueError) the error code.
            raise CudaError(f"{function}: {error}") from None
        if int(code):
            raise CudaError(f"{function}: {self._text(code)}")
        return values[0] if len(values) == 1 else values

    def _text(self, code: Any) -> str:
        name = str(getattr(code, "name", code))
        try:
            failed, text = self._binding.cuGetErrorString(code)
            if int(failed) or not text:
                return name
            return f"{text.decode() if isinstance(text, bytes) else text} ({name})"
        except (AttributeError, RuntimeError, ValueError):
            return name


class CudaPythonDriver(_Calls):
    """``device.Driver``."""

    def __init__(self, binding: Any, ordinal: int) -> None:
        super().__init__(binding)
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", ordinal)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        try:
            self.enter()
            try:
                self._stream = self._call("cuStreamCreate", _NON_BLOCKING)
            finally:
                self.leave()
        except CudaError:
            self._call("cuDevicePrimaryCtxRelease", self._device)
            raise
        self.stream = int(self._stream)

    def enter(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def leave(self) -> None:
        self._call("cuCtxPopCurrent")

    def allocate(self, count: int) -> tuple[int, Any]:
        owner = self._call("cuMemAlloc", count)
        return int(owner), owner

    def free(self, owner: Any) -> None:
        self._call("cuMemFree", owner)

    def upload(self, address: int, array: np.ndarray) -> None:
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)

    def copy(self, target: int, source: int, count: int) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, count, self._stream)

    def synchronise(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def close(self) -> None:
        self.enter()
        self._call("cuStreamDestroy", self._stream)
        self.leave()
        self._call("cuDevicePrimaryCtxRelease", self._device)


class CudaPythonGraphs(_Calls):
    """``device.GraphMaker``, on the current context."""

    def begin(self, stream: int) -> None:
        # Thread local, so that calls of other threads do not affect the capture.
        mode = self._binding.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._binding.CUstream(stream), mode)

    def end(self, stream: int) -> Any:
        graph = self._call("cuStreamEndCapture", self._binding.CUstream(stream))
        try:
            # Before CUDA 12 cuGraphInstantiate takes other arguments; this name exists since 11.4.
            flags = hasattr(self._binding, "cuGraphInstantiateWithFlags")
            return self._call("cuGraphInstantiateWithFlags" if flags else "cuGraphInstantiate",
                              graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cuGraphLaunch", graph, self._binding.CUstream(stream))

    def destroy(self, graph: Any) -> None:
        self._call("cuGraphExecDestroy", graph)


def _version(binding: Any) -> str:
    import importlib
    import sys

    for name in ("cuda.bindings", "cuda"):
        if not str(getattr(binding, "__name__", "")).startswith(name):
            continue
        module = sys.modules.get(name) or importlib.import_module(name)
        if version := getattr(module, "__version__", None):
            return str(version)
    return ""
