"""Errors of a GPU, its driver or its runtime: which mean a lack of memory or a lost context."""

from __future__ import annotations

import re

from ...errors import EngineError

__all__ = ["CudaError", "DeviceFailure", "context_is_lost", "is_out_of_memory"]

_OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory|cudaerrormemory|cuda error 2\b|alloc_failed|bfcarena|has no room for"
    r"|(failed|unable|could not) (to )?allocate|not enough memory|insufficient memory"
    r"|memory is insufficient|requested amount of gpu memory", re.IGNORECASE)
# After these the process cannot use the GPU again.
_LOST = re.compile(
    r"illegal[ _](memory access|address|instruction)|launch_(failed|timeout)|launch timed out"
    r"|unspecified launch failure|misaligned", re.IGNORECASE)


class DeviceFailure(EngineError):
    """A device, its driver or its runtime refused a call. If that ends a step, the buffers of the
    step's shape are released.

    out_of_memory  whether the cause is known to be a lack of memory, whatever the text says
    """

    out_of_memory = False


class CudaError(DeviceFailure):
    """The CUDA driver refused a call; the text names the function and the error."""


def is_out_of_memory(text: str) -> bool:
    """Whether a message of CUDA, ONNX Runtime or TensorRT means that memory is short."""
    return _OUT_OF_MEMORY.search(text) is not None


def context_is_lost(text: str) -> bool:
    """Whether a message of CUDA means that the process cannot use the GPU again."""
    return _LOST.search(text) is not None
