"""Dataclasses from plain values, as YAML has them, and back; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import CheckpointError, UsageError, listed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["build", "one_of", "plain"]

T = TypeVar("T", bound="DataclassInstance")

_TYPES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def build(kind: type[T], tree: Any, origin: str, where: str = "",
          hints: Mapping[str, type] | None = None) -> T:
    """A ``kind`` from a mapping of its fields.

    ``origin`` and ``where`` are the file and the place in it, for errors; ``hints`` are types that
    differ from the annotated ones. A dataclass with a ``from_dict`` builds itself; one with a
    ``SHORT`` may be written as the value of that field alone. Raises UsageError for unknown and
    missing keys, wrong types, and values that the dataclass refuses with ValueError.
    """
    short = getattr(kind, "SHORT", None)
    if short and not isinstance(tree, Mapping):
        tree = {short: tree}
    if not isinstance(tree, Mapping):
        raise UsageError(f"{origin}: {where or 'recipe'} must be a mapping, not {tree!r}")
    from_dict = getattr(kind, "from_dict", None)
    if from_dict is not None:
        try:
            built: T = from_dict(tree, where)
        except CheckpointError as error:
            raise UsageError(f"{origin}: {error}") from None
        return built
    types_of = {**typing.get_type_hints(kind), **(hints or {})}
    known = {field.name: types_of[field.name] for field in dataclasses.fields(kind)}
    unknown = set(tree) - set(known)
    if unknown:
        raise UsageError(f"{origin}: unknown key {listed(unknown)} in {where or 'recipe'}; "
                         f"known are {', '.join(sorted(known))}")
    missing = [f.name for f in dataclasses.fields(kind)
               if f.default is f.default_factory is dataclasses.MISSING and f.name not in tree]
    if missing:
        raise UsageError(f"{origin}: {where or 'recipe'} lacks {', '.join(missing)}; add "
                         f"{'it' if len(missing) == 1 else 'them'}")
    values = {key: _value(known[key], value, origin, f"{where}.{key}".lstrip("."))
              for key, value in tree.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"{origin}: {error}") from None


def plain(value: Any) -> Any:
    """The inverse of ``build``: mappings, lists and scalars."""
    if hasattr(value, "from_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _value(hint: Any, value: Any, origin: str, where: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, origin, where)
    if isinstance(hint, types.GenericAlias):  # tuple[X, ...]
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{origin}: {where} must be a list, not {value!r}")
        return tuple(_value(hint.__args__[0], item, origin, f"{where}[{index}]")
                     for index, item in enumerate(value))
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML reads 1e-3 as a string
            value = float(value)
        except ValueError:
            pass
    if type(value) is not hint:
        raise UsageError(f"{origin}: {where} must be {_TYPES[hint]}, not {value!r}")
    return value
