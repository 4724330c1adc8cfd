"""Classes with the names that a version's bindings have, and no others."""

from __future__ import annotations

import operator
from typing import Any

# Classes that users derive from, whose objects take any attribute.
_DERIVED = ("ILogger", "IProfiler", "IProgressMonitor")


class Absent:
    """A name that TensorRT has and the stand-in has not."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        raise NotImplementedError(f"the stand-in for TensorRT has no {self._name} yet")


def _set(self: object, name: str, value: object) -> None:
    if not name.startswith("_") and not hasattr(getattr(type(self), name, None), "__set__"):
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    object.__setattr__(self, name, value)


def _no_constructor(self: object) -> None:
    raise TypeError(f"{type(self).__name__}: No constructor defined!")


def restricted(name: str, template: type, names: list[str], base: type, module: Any) -> type:
    """``template`` copied, less the names that are not among ``names``; names that it lacks raise
    NotImplementedError. The module is ``_trt`` of the class. Zero-argument super() does not work in
    a template."""
    space = {key: value for key, value in vars(template).items()
             if key.startswith("_") and key not in ("__dict__", "__weakref__")
             or key in names}
    space.update({key: Absent() for key in names
                  if key not in space and not hasattr(base, key)})
    if name not in _DERIVED and "__setattr__" not in space:
        space["__setattr__"] = _set
    if "_create" in space:  # objects that only TensorRT makes
        space["__init__"] = _no_constructor
    space.update(_trt=module, __module__="tensorrt", __name__=name)
    return type(name, (base,), space)


def new(cls: Any, *arguments: Any, **named: Any) -> Any:
    """An object of a class that has no constructor for users."""
    made = cls.__new__(cls)
    made._create(*arguments, **named)
    return made


def enumeration(name: str, members: dict[str, int]) -> type:
    """As pybind11 makes them: comparable with their kind, numbers by ``int``."""
    class Enumeration:
        __slots__ = ("_value", "_name")
        __members__: dict[str, Any] = {}

        def __init__(self, value: int) -> None:
            self._value = operator.index(value)
            self._name = next((key for key, number in members.items() if number == self._value),
                              "???")

        @property
        def value(self) -> int:
            return self._value

        @property
        def name(self) -> str:
            return self._name

        def __int__(self) -> int:
            return self._value

        __index__ = __int__

        def __eq__(self, other: object) -> bool:
            return type(other) is type(self) and other._value == self._value

        def __hash__(self) -> int:
            return hash(self._value)

        def __repr__(self) -> str:
            return f"<{type(self).__name__}.{self._name}: {self._value}>"

        def __str__(self) -> str:
            return f"{type(self).__name__}.{self._name}"

    Enumeration.__name__ = Enumeration.__qualname__ = name
    made = {key: Enumeration(number) for key, number in members.items()}
    Enumeration.__members__ = made
    for key, member in made.items():
        setattr(Enumeration, key, member)
    return Enumeration
