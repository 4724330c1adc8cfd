"""What a CUDA driver refuses, whichever binding called it."""

from __future__ import annotations

from ...gpu.engine import DeviceFailure

__all__ = ["CudaError"]


class CudaError(DeviceFailure):
    """What the driver refuses: its function, the error's text and its name."""
