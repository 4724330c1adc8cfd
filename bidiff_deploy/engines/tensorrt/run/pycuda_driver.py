"""The CUDA driver by pycuda: memory, copies and streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ....errors import one_line
from ...gpu.failures import CudaError

__all__ = ["PycudaDriver", "find"]

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not in step with the legacy stream of other code
_Result = TypeVar("_Result")


def find() -> tuple[Any, str]:
    """(``pycuda.driver``, or None; the reason for None)"""
    try:
        import pycuda.driver as drv
    except ModuleNotFoundError:
        return None, "not installed"
    except Exception as error:  # a broken one may raise anything
        return None, one_line(error)
    if not hasattr(drv.Device, "retain_primary_context"):
        return None, "too old"  # TensorRT and our kernels need the primary context
    return drv, ""


class PycudaDriver:
    """``device.Driver``."""

    def __init__(self, drv: Any, ordinal: int) -> None:
        import pycuda

        self._drv = drv
        self.name = f"pycuda {pycuda.VERSION_TEXT}"
        self._call(drv.init)
        self._context = self._call(self._call(drv.Device, ordinal).retain_primary_context)
        self.enter()
        try:
            self._stream = self._call(drv.Stream, _NON_BLOCKING)
        finally:
            self.leave()
        self.stream = int(self._stream.handle)

    def enter(self) -> None:
        self._call(self._context.push)

    def leave(self) -> None:
        self._call(self._context.pop)

    def _call(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        try:
            return function(*arguments)
        except self._drv.Error as error:  # its text is "cuMemAlloc failed: out of memory"
            reason = one_line(error).replace(" failed: ", ": ", 1)
        # Outside the handler, so that the error does not refer to pycuda's objects.
        raise CudaError(reason)

    def allocate(self, count: int) -> tuple[int, Any]:
        owner = self._call(self._drv.mem_alloc, count)
        return int(owner), owner

    def free(self, owner: Any) -> None:
        self._call(owner.free)

    def upload(self, address: int, array: np.ndarray) -> None:
        self._call(self._drv.memcpy_htod_async, address, array, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        self._call(self._drv.memcpy_dtoh_async, array, address, self._stream)

    def copy(self, target: int, source: int, count: int) -> None:
        self._call(self._drv.memcpy_dtod_async, target, source, count, self._stream)

    def synchronise(self) -> None:
        self._call(self._stream.synchronize)

    def memory(self) -> tuple[int, int]:
        free, total = self._call(self._drv.mem_get_info)
        return int(free), int(total)

    def close(self) -> None:
        self.enter()
        self._stream = None  # destroys the stream; pycuda has no function for it
        self.leave()
        self._call(self._context.detach)
