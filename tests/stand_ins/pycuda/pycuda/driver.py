"""``pycuda.driver``."""

from __future__ import annotations

import ctypes
import threading
import weakref

import numpy as np

_cuda = ctypes.CDLL("libcuda.so.1")
_thread = threading.local()


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):
    pass


def _call(name, *arguments):
    code = getattr(_cuda, name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _cuda.cuGetErrorString(code, ctypes.byref(text))
        told = (text.value or b"unknown").decode()
        raise (MemoryError if code == 2 else LogicError)(
            f"{name.removesuffix('_v2')} failed: {told}")


def _stack():
    if not hasattr(_thread, "stack"):
        _thread.stack = []
    return _thread.stack


class Context:
    def __init__(self, handle, device):
        self._handle, self._device, self._valid = handle, device, True

    def push(self):
        _call("cuCtxPushCurrent_v2", self._handle)
        _stack().append(self)

    @staticmethod
    def pop():
        if not _stack():
            raise LogicError("context::pop failed: invalid device context - cannot pop")
        _stack().pop()
        _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def detach(self):
        if not self._valid:
            raise LogicError("context::detach failed: invalid device context")
        self._valid = False
        _call("cuDevicePrimaryCtxRelease_v2", self._device)


class Device:
    def __init__(self, ordinal):
        self._device = ctypes.c_int()
        _call("cuDeviceGet", ctypes.byref(self._device), ordinal)

    def retain_primary_context(self):
        handle = ctypes.c_void_p()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(handle), self._device)
        return Context(handle, self._device)


def _owned(function, handle, context):
    """What a destructor does: it needs the thread that the context is current in."""
    if context not in _stack():
        print("pycuda: out-of-thread context could not be cleaned up", flush=True)
        return
    _call(function, handle)


def _of_here():
    if not _stack():
        raise LogicError("explicit_context_dependent failed: invalid device context - no currently "
                         "active context?")
    return _stack()[-1]


class Stream:
    def __init__(self, flags=0):
        context, handle = _of_here(), ctypes.c_void_p()
        _call("cuStreamCreate", ctypes.byref(handle), flags)
        self.handle = handle.value
        weakref.finalize(self, _owned, "cuStreamDestroy_v2", handle, context).atexit = False

    def synchronize(self):
        _call("cuStreamSynchronize", ctypes.c_void_p(self.handle))


class DeviceAllocation:
    def __init__(self, count):
        context, address = _of_here(), ctypes.c_uint64()
        _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(count))
        self._address = address.value
        self.free = weakref.finalize(self, _owned, "cuMemFree_v2", address, context)
        self.free.atexit = False

    def __int__(self):
        return self._address


def init():
    _call("cuInit", 0)


def mem_alloc(count):
    return DeviceAllocation(count)


def mem_get_info():
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def _host(array):
    assert isinstance(array, np.ndarray) and array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)


def memcpy_htod_async(dest, src, stream):
    _call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(int(dest)), *_host(src),
          ctypes.c_void_p(stream.handle))


def memcpy_dtoh_async(dest, src, stream):
    pointer, count = _host(dest)
    _call("cuMemcpyDtoHAsync_v2", pointer, ctypes.c_uint64(int(src)), count,
          ctypes.c_void_p(stream.handle))


def memcpy_dtod_async(dest, src, size, stream):
    _call("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(int(dest)), ctypes.c_uint64(int(src)),
          ctypes.c_size_t(size), ctypes.c_void_p(stream.handle))
