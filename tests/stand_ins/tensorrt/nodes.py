"""Our plugin's nodes by its own C++ code, and the emulated driver's functions for tests.

The library is engines/tests/tensorrt_node_runner.cpp. Its operators count as registered in a
process that has loaded it, built for the major version of TensorRT at hand.
"""

from __future__ import annotations

import ctypes
import functools
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from cuda.bindings import driver

from bidiff_deploy.engines.tensorrt import api

from .objects import Refused

NAMESPACE = "bidiff"
ATTRIBUTES = {"groups": 0, "inputs": -1, "kernel": 0, "layout": 0}  # in C++'s order
_KINDS = {"float32": 0, "float16": 1, "int32": 2}
_ERROR_SIZE = 1024


class _Tensor(ctypes.Structure):
    _fields_ = [("dims", ctypes.c_int64 * 8), ("rank", ctypes.c_int32), ("type", ctypes.c_int32)]


def made(node: onnx.NodeProto, major: int) -> Node:
    """The plugin's node of a graph's, by the library that this process has loaded for that major
    version. Raises Refused, with the plugin's own sentence."""
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    named = tuple(attributes.pop(f"plugin_{what}", b"") for what in ("namespace", "version"))
    for file in api._plugins:
        library = ctypes.CDLL(str(file))
        library.bidiff_tensorrt_version.restype = ctypes.c_char_p
        if (int(library.bidiff_tensorrt_version().split(b".")[0]) == major
                and named == (NAMESPACE.encode(), b"1")):
            return Node(library, node.op_type, attributes)
    raise Refused("Assertion failed: creator && \"Plugin not found, are the plugin name, "
                    "version, and namespace correct?\"")


def _tensor(shape: tuple[int, ...], kind: int) -> _Tensor:
    return _Tensor((ctypes.c_int64 * 8)(*shape), len(shape), kind)


class Node:
    """One node of the plugin."""

    def __init__(self, library: ctypes.CDLL, op: str, attributes: dict[str, int]) -> None:
        self._library, self._node = library, ctypes.c_void_p()
        values = [attributes.get(name, otherwise) for name, otherwise in ATTRIBUTES.items()]
        self._call("create", op.encode(), (ctypes.c_int64 * 4)(*values), ctypes.byref(self._node))

    def __del__(self) -> None:
        if self._node:
            self._library.bidiff_runner_destroy(self._node)

    def configure(self, types: Sequence[int]) -> None:
        """Agree on ONNX types of inputs, of which the output's is the first."""
        names = [onnx.helper.tensor_dtype_to_np_dtype(kind).name for kind in (*types, types[0])]
        self._call("configure", self._node, (_Tensor * len(names))(*(
            _tensor((1,), _KINDS.get(name, 3)) for name in names)), len(types))

    def load(self) -> None:
        """Kernels into the current context."""
        self._call("load", self._node)

    def run(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """The output. An address of the emulated GPU is one of the host."""
        inputs = [np.ascontiguousarray(value) for value in inputs]
        given = (_Tensor * len(inputs))(*(_tensor(value.shape, _KINDS[value.dtype.name])
                                          for value in inputs))
        dims, size = (ctypes.c_int64 * 4)(), ctypes.c_uint64()
        self._call("output", self._node, given, len(given), dims)
        self._call("workspace", self._node, given, len(given), ctypes.byref(size))
        y, workspace = np.empty([*dims], inputs[0].dtype), np.empty(size.value + 1, np.uint8)
        self._call("enqueue", self._node, given, len(given),
                   (ctypes.c_void_p * len(inputs))(*(value.ctypes.data for value in inputs)),
                   *(ctypes.c_void_p(one.ctypes.data) for one in (y, workspace)), None)
        return y

    def _call(self, function: str, *arguments: object) -> None:
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        if getattr(self._library, f"bidiff_runner_{function}")(
                *arguments, error, ctypes.c_size_t(_ERROR_SIZE)):
            raise Refused(error.value.decode(errors="replace"))


# -- the emulated driver ----------------------------------------------------------------------

_WORK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def call(function: str, *arguments: object) -> Any:
    """What a function of the driver gives. Raises Refused."""
    code, *values = getattr(driver, function)(*arguments)
    if int(code):
        raise Refused(f"Error Code 1: Cuda Runtime ({function}: CUDA error {int(code)})")
    return values[0] if values else None


@functools.cache
def _emulated() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def ensure_context() -> None:
    """Make the first GPU's primary context current where none is, as TensorRT's runtime does."""
    call("cuInit", 0)
    if not int(call("cuCtxGetCurrent")):
        call("cuCtxPushCurrent", call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", 0)))


def take_memory(owner: object, size: int) -> None:
    """Bytes of the GPU, until ``owner`` is collected."""
    weakref.finalize(owner, driver.cuMemFree, call("cuMemAlloc", size))


def launch(stream: int, work: Callable[[], None], keep: list[object]) -> None:
    """Run ``work`` in the stream's order: now, or whenever the graph that captures it is launched;
    ``keep`` has to live as long. Raises Refused for a failure now."""
    def run(_: object) -> int:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    keep.append(function := _WORK(run))
    if code := _emulated().bidiff_emulated_launch(ctypes.c_void_p(stream), function, None):
        raise Refused(f"Error Code 1: Cuda Runtime (launch: CUDA error {code})")


def view(what: str, address: int, shape: Sequence[int], dtype: np.dtype | type) -> np.ndarray:
    """Device memory as numpy sees it: an address of the emulated GPU is one of the host. Raises
    Refused where it is not in one block of the GPU's memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size and not _emulated().bidiff_emulated_is_allocated(
            ctypes.c_uint64(address), ctypes.c_size_t(size)):
        raise Refused("Error Code 1: Cuda Runtime (an illegal memory access was encountered: "
                      f"{what} of {size} bytes at {address:#x})")
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)
