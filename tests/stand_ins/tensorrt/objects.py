"""Loggers, monitors, buffers, profiles and timing caches."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from typing import Any

CACHE_MAGIC = b"BIDIFF STAND-IN CACHE\n"


class ILogger:
    """Where messages go."""

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError("ILogger.log is pure virtual")


class IProgressMonitor:
    """Derived from by users."""

    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError("IProgressMonitor.phase_start is pure virtual")

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError("IProgressMonitor.phase_finish is pure virtual")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError("IProgressMonitor.step_complete is pure virtual")


def checked(value: Any, kind: type) -> Any:
    """``value``, whose base must have been initialised."""
    if not isinstance(value, kind) or not getattr(value, "_made", False):
        raise TypeError(f"{kind.__name__}.__init__() must be called when overriding __init__, and "
                        f"the object be one: {value!r}")
    return value


class IHostMemory(bytearray):
    """A buffer. Nothing but its bytes is to be had of it."""

    def __init__(self, content: bytes) -> None:
        bytearray.__init__(self, content)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name not in ("nbytes", "dtype", "_trt"):
            raise AttributeError(f"'IHostMemory' object has no attribute {name!r}")
        return bytearray.__getattribute__(self, name)

    __len__ = None  # type: ignore[assignment]  # IHostMemory has no length

    def __bool__(self) -> bool:
        return True

    @property
    def nbytes(self) -> int:
        return memoryview(self).nbytes


class IOptimizationProfile:
    """Ranges of the inputs' shapes."""

    def _create(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int],
                  max: Sequence[int]) -> None:
        shapes = [tuple(operator.index(size) for size in shape) for shape in (min, opt, max)]
        if len({len(shape) for shape in shapes}) != 1 or any(
                not 0 <= a <= b <= c for a, b, c in zip(*shapes)):
            raise ValueError(f"Shape provided for min/opt/max of {input} is inconsistent with one "
                             "another")
        self._shapes[input] = shapes

    def __bool__(self) -> bool:
        return True


class ITimingCache:
    """Timings of layers, by what they are."""

    def _create(self, header: str, keys: set[str]) -> None:
        self._header, self._keys = header, keys

    def serialize(self) -> Any:
        return self._trt.IHostMemory(CACHE_MAGIC + json.dumps(
            {"header": self._header, "keys": sorted(self._keys)}).encode())


TEMPLATES = {"ILogger": ILogger, "IProgressMonitor": IProgressMonitor,
             "IHostMemory": IHostMemory, "IOptimizationProfile": IOptimizationProfile,
             "ITimingCache": ITimingCache}
