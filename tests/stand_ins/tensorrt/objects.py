"""What all classes of the stand-in have in common."""

from __future__ import annotations

import os
from typing import Any


class Refused(Exception):
    """What TensorRT, our plugin or the driver would not do, in its own sentence."""


def lacking(name: str, names: frozenset[str]) -> Exception:
    """The error of a name that is not there: whether TensorRT has it, of whose ``names`` it is."""
    if name in names:
        return NotImplementedError(f"the stand-in for TensorRT has no {name} yet")
    return AttributeError(name)


class Object:
    """An object with the names of its version's class, and no others; ``_trt`` is the module."""

    _trt: Any = None
    _names: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        raise lacking(name, self._names)

    def _log(self, text: str, severity: str = "ERROR") -> bool:
        self._logger.log(getattr(self._trt.ILogger.Severity, severity), text)
        return False

    def _of(self, kind: str, value: Any) -> str:
        """The name of an enumeration's member."""
        if type(value) is not getattr(self._trt, kind):
            raise TypeError(f"incompatible function arguments: {value!r} is no {kind}")
        return value.name


def injected(what: str) -> bool:
    """Whether BIDIFF_STAND_IN_FAIL says that this fails: deserialize, context, enqueue."""
    return os.environ.get("BIDIFF_STAND_IN_FAIL") == what
