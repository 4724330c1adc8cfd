"""Pickles of torch checkpoints, read without torch and without running anything.

A pickle is a program; here each instruction makes a plain value or a description of a tensor.
Names of classes and functions are only compared with a list: an object of another name becomes
``Opaque``, and its name is reported. Time and memory are bounded by MAX_INSTRUCTIONS.
"""

from __future__ import annotations

import mmap
import pickletools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

__all__ = ["Opaque", "Storage", "TensorView", "read_pickle"]

MAX_INSTRUCTIONS = 600_000  # of the published network with its optimiser 232,764
# Elements of storages, as numpy spells them; bfloat16 is the upper half of a float32.
BFLOAT16 = "bfloat16"
ELEMENTS = {"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": BFLOAT16, "Long": "i8",
            "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?"}
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_WRAPPED = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_DICTS = ("collections.OrderedDict", "collections.Counter", "collections.defaultdict")
# Objects that are harmless in a checkpoint's other parts (optimisers, schedulers, versions).
_HARMLESS = {"torch.Size", "torch.device", "torch.nn.parameter.Parameter", "torch.Tensor",
             "torch._tensor._rebuild_from_type_v2", "torch.serialization._get_layout",
             "torch.torch_version.TorchVersion", "_codecs.encode", "builtins.set",
             "builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str",
             "builtins.bool", "builtins.complex", "builtins.bytearray"}
_VALUES = {"NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
           "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
           "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
           "BINBYTES8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, eq=False)
class Opaque:
    """An object that is not read: the full name of its class or of the function that makes it."""

    name: str


@dataclass(frozen=True, eq=False)
class Storage:
    """A file's block of numbers: its element (a value of ELEMENTS), key and number of elements."""

    element: str
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class TensorView:
    """A tensor's place in a storage; ``offset`` and ``stride`` count elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(stream: IO[bytes] | mmap.mmap) -> tuple[Any, list[str], dict[str, Storage]]:
    """The value of the pickle at the stream's position; the names of objects that are not plain
    data, sorted; and the storages that it refers to. Dictionaries have keys that are text or
    numbers only; other entries are left out. Raises ValueError, IndexError, KeyError, TypeError or
    RecursionError for what is not a pickle."""
    machine = _Machine()
    with warnings.catch_warnings():
        # pickletools warns of escapes in old texts, which a damaged file may have.
        warnings.simplefilter("ignore", DeprecationWarning)
        value = machine.run(cast(IO[bytes], stream))
    return value, sorted(machine.foreign), machine.storages


class _Machine:
    def __init__(self) -> None:
        self.foreign: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # stacks under each mark
        self._memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes]) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_INSTRUCTIONS:
                raise ValueError("the pickle has too many instructions")
            name = opcode.name
            if name in _VALUES:
                self._stack.append(_CONSTANTS.get(name, argument))
            elif name in _TUPLES:
                self._stack.append(tuple(self._pop(_TUPLES[name])))
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                self._memo[int(argument or 0)] = self._stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                self._stack.append(self._memo[int(argument or 0)])
            elif name == "STOP":
                return self._stack.pop()
            elif name not in ("PROTO", "FRAME"):
                method = getattr(self, f"_{name.lower()}", None)
                if method is None:
                    raise ValueError(f"a checkpoint has no pickle instruction {name}")
                method() if argument is None else method(argument)
        raise ValueError("the pickle has no end")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("the pickle takes more than there is")
        start = len(self._stack) - count
        found, self._stack[start:] = self._stack[start:], []
        return found

    def _pop_mark(self) -> list[Any]:
        found, self._stack = self._stack, self._below.pop()
        return found

    # -- containers -----------------------------------------------------------------------------
    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _empty_list(self) -> None:
        self._stack.append([])

    _empty_set = _empty_list

    def _dict(self) -> None:
        items = self._pop_mark()
        self._stack.append(_entries(items[::2], items[1::2]))

    def _list(self) -> None:
        found = self._pop_mark()
        self._stack.append(found)

    def _tuple(self) -> None:
        found = tuple(self._pop_mark())  # which replaces the stack
        self._stack.append(found)

    _frozenset = _tuple

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _appends(self) -> None:
        self._extend(self._pop_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _setitem(self) -> None:
        self._update(self._pop(2))

    def _setitems(self) -> None:
        self._update(self._pop_mark())

    def _update(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], dict):
            self._stack[-1].update(_entries(items[::2], items[1::2]))

    # -- objects --------------------------------------------------------------------------------
    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._named(module, name))

    def _stack_global(self) -> None:
        self._stack.append(self._named(*self._pop(2)))

    def _named(self, module: Any, name: Any) -> Opaque:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name in the pickle is not text")
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if not (full in _HARMLESS or full in _DICTS
                or full.startswith(("torch._utils._rebuild_", "torch.storage."))
                or module in ("torch", "torch.cuda", "torch.sparse") and name.isidentifier()):
            self.foreign.add(full)
        return Opaque(full)

    def _reduce(self) -> None:
        maker, arguments = self._pop(2)
        self._stack.append(_made(maker, arguments))

    _newobj = _reduce

    def _newobj_ex(self) -> None:
        maker, arguments, _ = self._pop(3)
        self._stack.append(_made(maker, arguments))

    def _obj(self) -> None:
        maker, *arguments = self._pop_mark()
        self._stack.append(_made(maker, tuple(arguments)))

    def _inst(self, argument: str) -> None:
        self._pop_mark()
        self._global(argument)

    def _build(self) -> None:
        self._stack.pop()  # attributes: `_metadata` of a state dict; of objects that are not read

    def _binpersid(self) -> None:
        kind, element, key, _, count, *view = self._stack.pop()
        if kind != "storage" or not isinstance(element, Opaque) or not isinstance(key, str) or (
                type(count) is not int or any(view)):
            raise ValueError("a storage of the pickle is not one of torch")
        name = element.name.removeprefix("torch.").removeprefix("cuda.").removesuffix("Storage")
        storage = self.storages.setdefault(key, Storage(ELEMENTS.get(name, name), key, count))
        self._stack.append(storage)


def _entries(keys: Sequence[Any], values: Sequence[Any]) -> dict[Any, Any]:
    # Other keys could take for ever to hash.
    return {key: value for key, value in zip(keys, values)
            if isinstance(key, (str, int, float)) or key is None}


def _made(maker: Any, arguments: Any) -> Any:
    """What a class or function would make of ``arguments``: a tensor, a dictionary, a tuple of
    sizes, or something opaque."""
    if not isinstance(maker, Opaque) or not isinstance(arguments, tuple):
        raise ValueError("the pickle calls what is not a function")
    if maker.name in _TENSORS:
        # The seventh argument marks views that are negated or conjugated.
        return Opaque(maker.name) if any(arguments[6:]) else _view(*arguments[:4])
    if maker.name in _WRAPPED:
        return arguments[0]
    if maker.name == "torch._tensor._rebuild_from_type_v2":
        return _made(arguments[0], arguments[2])
    if maker.name in _DICTS:
        given = next((a for a in arguments if isinstance(a, (Mapping, list))), {})
        pairs = given.items() if isinstance(given, Mapping) else given
        return _entries(*zip(*pairs)) if pairs else {}
    if maker.name == "torch.Size" and isinstance(arguments[0], tuple):
        return arguments[0]
    return Opaque(maker.name)


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> TensorView | Opaque:
    if not isinstance(storage, Storage):
        return Opaque("a tensor without a storage")
    if not (isinstance(size, tuple) and isinstance(stride, tuple)) or len(size) != len(stride) or (
            not all(type(value) is int and 0 <= value < 1 << 40
                    for value in (offset, *size, *stride))):
        raise ValueError("a tensor of the pickle has no place in its storage")
    return TensorView(storage, offset, size, stride)
