"""Random changes of a bundle, several at a time; sizes and hashes are made to fit."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .bundles import GRAPHS, Manifest, write

Random = np.random.Generator
# Values that a manifest should not have somewhere.
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 63, 1 << 20, (1 << 31) - 1, 1 << 40, 10 ** 17, 10 ** 30, -10 ** 400,
    0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), "", "a", "\x1b[2J\nerror: fake",
    "../weights.bin", "x" * 100_000, "\ud800", [], [[]], [0] * 5000, {}, {"": {}},
    {"\x1b]0;a\x07": 1})


def write_mutant(honest: Path, folder: Path, random: Random) -> str:
    """Write a changed copy of the bundle ``honest`` to ``folder``; returns what is changed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(honest, folder)
    names = random.choice(sorted(CHANGES), size=random.integers(1, 4), replace=False)

    def maker(folder: Path, manifest: Manifest) -> Any:
        changed: Any = manifest
        for name in sorted(names):  # "text" is the last
            changed = CHANGES[name](folder, changed, random)
        return changed
    write(folder, maker)
    return ", ".join(names)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside ``value``."""
    for key in (value if isinstance(value, dict) else range(len(value))):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def _place(value: Any, random: Random) -> tuple[Any, Any]:
    """One place; every key of the top level is as likely as the others, however large."""
    found = list(_places(value))
    if random.random() < 0.7:
        top = list(value)[random.integers(len(value))]
        found = [(value, top), *(_places(value[top]) if isinstance(value[top], (dict, list))
                                 else ())]
    return found[random.integers(len(found))]


def _value(folder: Path, manifest: Manifest, random: Random) -> Manifest:
    container, key = _place(manifest, random)
    container[key] = copy.deepcopy(ODD[random.integers(len(ODD))])
    return manifest


def _number(folder: Path, manifest: Manifest, random: Random) -> Manifest:
    numbers = [(c, k) for c, k in _places(manifest) if type(c[k]) is int]
    if random.random() < 0.5:
        numbers = [(c, k) for c, k in _places({"": manifest.get("network") or {}})
                   if type(c[k]) is int]
    if numbers:
        container, key = numbers[random.integers(len(numbers))]
        container[key] = int(container[key] * 2.0 ** random.integers(-3, 12)
                             + random.integers(-2, 3))
    return manifest


def _absent(folder: Path, manifest: Manifest, random: Random) -> Manifest:
    container, key = _place(manifest, random)
    del container[key]
    return manifest


def _swapped(folder: Path, manifest: Manifest, random: Random) -> Manifest:
    (one, key), (other, second) = _place(manifest, random), _place(manifest, random)
    one[key], other[second] = copy.deepcopy(other[second]), copy.deepcopy(one[key])
    return manifest


def _repeated(folder: Path, manifest: Manifest, random: Random) -> Manifest:
    lists = [c[k] for c, k in _places(manifest) if isinstance(c[k], list) and c[k]]
    if lists:
        one = lists[random.integers(len(lists))]
        one.extend(copy.deepcopy(one) * int(random.integers(1, 40)))
    return manifest


def _text(folder: Path, manifest: Any, random: Random) -> Any:
    """Bytes of the document itself."""
    data = bytearray(json.dumps(manifest).encode())
    for _ in range(random.integers(1, 4)):
        place = random.integers(len(data))
        if random.random() < 0.5:
            data[place] = random.integers(256)
        else:
            data[place:place] = data[place:place + random.integers(1, 200)]
    return bytes(data)


def _bytes_of(pattern: str) -> Callable[[Path, Manifest, Random], Manifest]:
    def change(folder: Path, manifest: Manifest, random: Random) -> Manifest:
        files = sorted(folder.glob(pattern))
        file = files[random.integers(len(files))]
        data = bytearray(file.read_bytes())
        how = random.integers(4)
        if how == 0:
            del data[random.integers(len(data)):]
        elif how == 1:
            data += random.bytes(random.integers(1, 1 << 16))
        else:
            for place in random.integers(0, len(data), random.integers(1, 2000)):
                data[place] = 0xFF if how == 2 else random.integers(256)
        file.write_bytes(data)
        return manifest
    return change


def _graph(folder: Path, manifest: Manifest, random: Random) -> Manifest:
    name = sorted(GRAPHS)[random.integers(len(GRAPHS))]
    try:
        changed = GRAPHS[name](folder, manifest)
        assert isinstance(changed, dict)
        return changed
    except Exception:  # an earlier change left no such graph
        return manifest


CHANGES: dict[str, Callable[[Path, Any, Random], Any]] = {
    "a number": _number, "a place": _swapped, "a value": _value, "absent": _absent,
    "bytes of graphs": _bytes_of("*.onnx"), "bytes of weights": _bytes_of("*.bin"),
    "graph": _graph, "repeated": _repeated, "text": _text}
