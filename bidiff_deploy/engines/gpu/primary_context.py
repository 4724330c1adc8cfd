"""A GPU made current in this thread, for libraries that use the current GPU.

TensorRT's builder has no argument for the GPU. Needs only the driver; BIDIFF_LIBCUDA names it if it
is not libcuda.so.1.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

from ...errors import EngineError

__all__ = ["current_gpu"]


@contextlib.contextmanager
def current_gpu(ordinal: int) -> Iterator[None]:
    """A context manager that makes the GPU's primary context current, which the CUDA runtime uses
    as well.

    Raises:
        EngineError: no driver, or no such GPU.
    """
    try:
        driver = ctypes.CDLL(os.environ.get("BIDIFF_LIBCUDA") or "libcuda.so.1")
    except OSError as error:
        raise EngineError(f"no NVIDIA driver was found ({error}); install it, or start the "
                          "container with --gpus all") from None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call(driver, ordinal, "cuInit", 0)
    _call(driver, ordinal, "cuDeviceGet", ctypes.byref(device), ordinal)
    _call(driver, ordinal, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        _call(driver, ordinal, "cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def _call(driver: ctypes.CDLL, ordinal: int, name: str, *arguments: object) -> None:
    code = getattr(driver, name)(*arguments)
    if code:
        raise EngineError(f"GPU {ordinal} cannot be used: {name} failed with CUDA error {code}; "
                          "see nvidia-smi")
