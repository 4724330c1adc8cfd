"""``.pth`` and ``.pt`` files as plain values and arrays, without torch.

A file of torch is a zip archive (``name/data.pkl``, ``name/data/0``, ...) or, until torch 1.5 or on
request, pickles followed by their storages. Storages are never larger than the file, and tensors
are read one by one (``TorchFile.array``), so that the caller can bound their sum first.
"""

from __future__ import annotations

import functools
import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import CheckpointError
from .pickles import BFLOAT16, ELEMENTS, Storage, TensorView, read_pickle

__all__ = ["TorchFile", "open_torch_file", "widened"]

MAX_PICKLE_BYTES = 1 << 24
MAX_RECORDS = 1 << 16
_CODES = {"u2", *ELEMENTS.values()} - {BFLOAT16}
_DAMAGED = (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError,
            RecursionError, RuntimeError, NotImplementedError, MemoryError, OSError, struct.error,
            zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile)
# What a legacy file begins with: the pickle of this number, that of its version, and so on.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


@dataclass(frozen=True)
class TorchFile:
    """The content of a file.

    document  its value: dictionaries, lists, numbers, text, TensorView and Opaque
    foreign   names of objects in it that are not plain data
    read      the bytes of a storage, read once
    order     of bytes, as numpy spells it
    """

    document: Any
    foreign: list[str]
    read: Callable[[Storage], bytes | memoryview]
    order: Literal["<", ">"] = "<"

    def array(self, view: TensorView) -> np.ndarray:
        """A tensor; floats as float32. Raises ValueError for one that is not in its storage."""
        element = view.storage.element
        code = "u2" if element == BFLOAT16 else element
        if code not in _CODES:
            raise ValueError(f"it has elements of type {element}")
        try:
            flat = np.frombuffer(self.read(view.storage), np.dtype(code).newbyteorder(self.order))
        except _DAMAGED:
            raise ValueError("its numbers are missing or damaged") from None
        last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride))
        if math.prod(view.size) and last >= flat.size:
            raise ValueError("it is larger than its storage")
        if not math.prod(view.size):
            return np.zeros(view.size, np.float32)
        strided = np.lib.stride_tricks.as_strided(
            flat[view.offset:], view.size, [step * flat.itemsize for step in view.stride])
        return widened(np.ascontiguousarray(strided).reshape(view.size), element == BFLOAT16)


def widened(value: np.ndarray, bfloat16: bool = False) -> np.ndarray:
    """Floats of any width as float32; ``bfloat16``: uint16 values are upper halves of float32."""
    if bfloat16:
        return (value.astype(np.uint32) << 16).view(np.float32)
    if value.dtype.kind == "f":
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            return value.astype(np.float32)
    return value


def open_torch_file(path: Path, size: int) -> TorchFile:
    """The content of a file of ``size`` bytes. Raises CheckpointError for one that torch did not
    write, and for a damaged one."""
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[:4] == b"PK\3\4":
            return _archive(path, data, size)
        return _legacy(path, data)
    except _DAMAGED:
        raise CheckpointError(f"{path} is not a readable torch checkpoint; it may be truncated, "
                              "so copy or download it again") from None


def _archive(path: Path, data: mmap.mmap, size: int) -> TorchFile:
    place = records = 0
    while (place := data.find(b"PK\1\2", place) + 1) > 0:
        records += 1
        if records > MAX_RECORDS:
            raise CheckpointError(f"{path} has more records than a checkpoint can have; save its "
                                  "state dict alone with torch.save")
    archive = zipfile.ZipFile(path)
    found = archive.infolist()
    if any(info.filename.endswith("/constants.pkl") for info in found):
        raise CheckpointError(f"{path} is a TorchScript program, not a state dict; write it with "
                              "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')")
    pickles = [info for info in found if info.filename.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(f"{path} is a zip archive that torch did not write; unpack it and "
                              "give the checkpoint inside it")
    if any(info.compress_type != zipfile.ZIP_STORED for info in found):
        raise CheckpointError(f"{path} has compressed records, which torch never writes; save it "
                              "again with torch.save")
    if sum(info.file_size for info in found) > size or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path} has records that are larger than the file, or a larger "
                              "pickle than a checkpoint can have; save its state dict alone with "
                              "torch.save")
    folder = pickles[0].filename[:-len("data.pkl")]
    document, foreign, _ = read_pickle(io.BytesIO(archive.read(pickles[0])))
    big = f"{folder}byteorder" in archive.namelist() and archive.read(
        f"{folder}byteorder") == b"big"
    read = functools.cache(archive.read)
    return TorchFile(document, foreign, lambda storage: read(f"{folder}data/{storage.key}"),
                     ">" if big else "<")


def _legacy(path: Path, data: mmap.mmap) -> TorchFile:
    magic, foreign, _ = read_pickle(data)
    if magic != _MAGIC:  # another pickle
        return TorchFile(magic, foreign, lambda storage: b"")
    if read_pickle(data)[0] != _VERSION:
        raise ValueError("an unknown version")
    system = read_pickle(data)[0]
    document, foreign, storages = read_pickle(data)
    keys = read_pickle(data)[0]
    places: dict[str, tuple[int, int]] = {}
    order: Literal["<", ">"] = "<" if system.get("little_endian", True) else ">"
    place = data.tell()
    for key in keys:
        element = storages[key].element
        width = 2 if element == BFLOAT16 else np.dtype(element).itemsize
        count, = struct.unpack_from(f"{order}q", data, place)
        if not 0 <= count * width <= len(data) - place - 8:
            raise ValueError("a storage is larger than the file")
        places[key] = place + 8, place + 8 + count * width
        place += 8 + count * width
    whole = memoryview(data)
    return TorchFile(document, foreign, lambda storage: whole[slice(*places[storage.key])], order)
