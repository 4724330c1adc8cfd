"""Our plugin's nodes by its own C++ code, and the emulated driver's functions for tests.

The library is engines/tests/tensorrt_node_runner.cpp. Its operators count as registered in a
process that has loaded it, as with the real one: ``libbidiff_tensorrt*.so`` from any folder, built
for the major version of TensorRT at hand.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

_ERROR_SIZE = 1024
NAMESPACE, VERSION = "bidiff", "1"
ATTRIBUTES = {"groups": 0, "inputs": -1, "kernel": 0, "layout": 0}  # in C++'s order
_TYPES: dict[int, int] = {
    onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 1, onnx.TensorProto.INT32: 2}
OPERATORS = ("BinaryConv", "NormBinaryConv", "BinaryFusion", "BinaryDown", "BinaryUp",
             "GroupNormSwish")


class NodeError(Exception):
    """The plugin's own sentence."""


class _Tensor(ctypes.Structure):
    _fields_ = [("dims", ctypes.c_int64 * 8), ("rank", ctypes.c_int32), ("type", ctypes.c_int32)]


def registered(major: int) -> ctypes.CDLL | None:
    """The plugin library that this process has loaded for that version."""
    with open("/proc/self/maps") as maps:
        # One that was built anew since it was loaded is "(deleted)", and dlopen still gives it.
        found = re.findall(r"(/\S*/libbidiff_tensorrt[^/\s]*\.so)(?: \(deleted\))?$", maps.read(),
                           re.M)
    for file in dict.fromkeys(found):
        library = ctypes.CDLL(file)
        library.bidiff_tensorrt_version.restype = ctypes.c_char_p
        if int(library.bidiff_tensorrt_version().split(b".")[0]) == major:
            return library
    return None


def tensors(shapes: Sequence[tuple[int, ...]], types: Sequence[int]) -> Any:
    """Shapes and ONNX types as the library takes them."""
    made = (_Tensor * len(shapes))()
    for entry, shape, kind in zip(made, shapes, types):
        entry.rank, entry.type = len(shape), _TYPES.get(kind, 3)
        for axis, size in enumerate(shape):
            entry.dims[axis] = size
    return made


class Node:
    """One node of the plugin."""

    def __init__(self, library: ctypes.CDLL, op: str, attributes: dict[str, int]) -> None:
        self._library, self._node = library, ctypes.c_void_p()
        values = [attributes.get(name, otherwise) for name, otherwise in ATTRIBUTES.items()]
        self._call("create", op.encode(), (ctypes.c_int64 * 4)(*values), ctypes.byref(self._node))

    def __del__(self) -> None:
        if self._node:
            self._library.bidiff_runner_destroy(self._node)

    def configure(self, types: Sequence[int], output: int) -> None:
        """Agree on ONNX types of inputs and output."""
        self._call("configure", self._node, tensors([(1,)] * (len(types) + 1), [*types, output]),
                   len(types))

    def output(self, given: Any) -> tuple[int, ...]:
        """Shape of the output."""
        dims = (ctypes.c_int64 * 4)()
        self._call("output", self._node, given, len(given), dims)
        return tuple(dims)

    def workspace(self, given: Any) -> int:
        """Bytes, enough for these shapes and smaller ones."""
        size = ctypes.c_uint64()
        self._call("workspace", self._node, given, len(given), ctypes.byref(size))
        return size.value

    def load(self) -> None:
        """Kernels into the current context."""
        self._call("load", self._node)

    def enqueue(self, given: Any, pointers: Sequence[int], y: int, workspace: int,
                stream: int) -> None:
        """Kernels on the stream."""
        self._call("enqueue", self._node, given, len(given),
                   (ctypes.c_void_p * len(pointers))(*pointers), ctypes.c_void_p(y),
                   ctypes.c_void_p(workspace), ctypes.c_void_p(stream))

    def _call(self, function: str, *arguments: object) -> None:
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        if getattr(self._library, f"bidiff_runner_{function}")(
                *arguments, error, ctypes.c_size_t(_ERROR_SIZE)):
            raise NodeError(error.value.decode(errors="replace"))


# -- the emulated driver ----------------------------------------------------------------------

_WORK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class DriverError(Exception):
    """A call failed; ``code`` is the driver's."""

    def __init__(self, function: str, code: int) -> None:
        self.code = code
        super().__init__(f"{function}: CUDA error {code}")


@functools.cache
def _libcuda(file: str) -> ctypes.CDLL:
    return ctypes.CDLL(file)


def _call(function: str, *arguments: object) -> None:
    if code := getattr(_libcuda(os.environ["BIDIFF_LIBCUDA"]), function)(*arguments):
        raise DriverError(function, code)


def ensure_context() -> None:
    """Make the first GPU's primary context current where none is, as TensorRT's runtime does."""
    context, device = ctypes.c_void_p(), ctypes.c_int()
    _call("cuInit", 0)
    _call("cuCtxGetCurrent", ctypes.byref(context))
    if not context:
        _call("cuDeviceGet", ctypes.byref(device), 0)
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        _call("cuCtxPushCurrent_v2", context)


def device() -> tuple[str, int]:
    """Name and architecture of the current GPU."""
    ensure_context()
    number, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(64)
    _call("cuCtxGetDevice", ctypes.byref(number))
    _call("cuDeviceGetName", name, 64, number)
    _call("cuDeviceGetAttribute", ctypes.byref(major), 75, number)
    _call("cuDeviceGetAttribute", ctypes.byref(minor), 76, number)
    return name.value.decode(), 10 * major.value + minor.value


class DeviceMemory:
    """Bytes of the GPU, until it is collected."""

    def __init__(self, size: int) -> None:
        ensure_context()
        self.size, self._pointer = size, ctypes.c_uint64()
        _call("cuMemAlloc_v2", ctypes.byref(self._pointer), ctypes.c_size_t(max(size, 1)))

    @property
    def address(self) -> int:
        return self._pointer.value

    def __del__(self) -> None:
        if self._pointer.value:
            try:
                _call("cuMemFree_v2", self._pointer)
            except Exception:
                pass  # the process ends


def is_allocated(address: int, size: int) -> bool:
    """Whether the bytes are in one block of the GPU's memory."""
    return bool(_libcuda(os.environ["BIDIFF_LIBCUDA"]).bidiff_emulated_is_allocated(
        ctypes.c_uint64(address), ctypes.c_size_t(size)))


def is_capturing(stream: int) -> bool:
    """Whether a graph is captured on the stream."""
    status = ctypes.c_int()
    _call("cuStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(status))
    return bool(status.value)


def launch(stream: int, work: Callable[[], None], keep: list[object]) -> None:
    """Run ``work`` in the stream's order: now, or whenever the graph that captures it is launched;
    ``keep`` has to live as long. Raises DriverError for a failure now."""
    def run(_: object) -> int:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            return 1
        return 0

    function = _WORK(run)
    keep.append(function)
    _call("bidiff_emulated_launch", ctypes.c_void_p(stream), function, None)


def view(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Device memory as numpy sees it: an address of the emulated GPU is one of the host."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(raw, dtype).reshape(shape)
