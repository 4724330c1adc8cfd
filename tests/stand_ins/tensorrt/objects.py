"""What all classes of the stand-in have in common."""

from __future__ import annotations

import os
from typing import Any


class Refused(Exception):
    """What TensorRT would not do; the sentence is its, or the plugin's."""


class Object:
    """An object with the names of its version's class, and no others; ``_trt`` is the module."""

    _trt: Any = None
    _names: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        if name in type(self)._names:
            raise NotImplementedError(f"the stand-in for TensorRT has no {name} yet")
        raise AttributeError(name)

    def __setattr__(self, name: str, value: object) -> None:
        # A class that a user derived takes any attribute.
        if not name.startswith("_") and "_trt" in vars(type(self)) and not isinstance(
                getattr(type(self), name, None), property):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)

    def _log(self, text: str, severity: str = "ERROR") -> bool:
        self._logger.log(getattr(self._trt.ILogger.Severity, severity), text)
        return False

    def _of(self, kind: str, value: Any) -> str:
        """The name of an enumeration's member."""
        if type(value) is not getattr(self._trt, kind):
            raise TypeError(f"incompatible function arguments: {value!r} is no {kind}")
        return value.name


def checked(value: Any, kind: type) -> Any:
    """``value``, whose base must have been initialised."""
    if not isinstance(value, kind) or not getattr(value, "_made", False):
        raise TypeError(f"{kind.__name__}.__init__() must be called when overriding __init__, and "
                        f"the object be one: {value!r}")
    return value


def injected(what: str) -> bool:
    """Whether BIDIFF_STAND_IN_FAIL says that this fails: build, deserialize, context, enqueue."""
    return os.environ.get("BIDIFF_STAND_IN_FAIL") == what
