"""The CUDA part of the op library: devices, the loading of kernels, and their launches.

ONNX Runtime calls the same kernels by itself. No part of CUDA is imported: the library opens the
NVIDIA driver when a function first needs it. The library reads BIDIFF_LIBCUDA, BIDIFF_NVRTC and
BIDIFF_CUDA_PATH (auto, xor, and, int8, popc). Operators are defined in ``export/op_contract.md``,
structures in ``engines/cuda/c_api.h``.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from typing import Any

from ...errors import EngineError
from .. import library
from .nvrtc_files import nvrtc_files

__all__ = [
    "DeviceInfo", "Embedded", "KernelUse", "Launch", "compile_unit", "cuda_library", "device_count",
    "device_info", "embedded", "forced_path", "kernel_names", "kernel_use", "launches",
    "load_kernels", "paths", "units", "use_nvrtc_of_wheels",
]

_ERROR_SIZE = 4096
_TEXT_SIZE = 1 << 16


@dataclass(frozen=True)
class DeviceInfo:
    """A GPU. ``architecture`` is 10 * major + minor; sizes in bytes; ``memory_bandwidth`` in bytes
    a second, 0 if unknown; ``driver`` is the CUDA version that the driver supports."""

    ordinal: int
    name: str
    architecture: int
    multiprocessors: int
    memory: int
    shared_per_block: int
    memory_bandwidth: float
    driver: str


@dataclass(frozen=True)
class Embedded:
    """Machine code compiled with the library; none if ``architectures`` is empty."""

    architectures: tuple[int, ...]
    toolkit: str
    size: int


@dataclass(frozen=True)
class KernelUse:
    """Registers and local (spilled) bytes per thread, static shared bytes per block."""

    registers: int
    local_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Launch:
    """One kernel launch of a plan; ``shared`` is dynamic shared memory in bytes."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    argument_bytes: int


class _DeviceStruct(ctypes.Structure):
    _fields_ = [("ordinal", ctypes.c_int32), ("architecture", ctypes.c_int32),
                ("multiprocessors", ctypes.c_int32), ("driver_version", ctypes.c_int32),
                ("memory", ctypes.c_uint64), ("shared_per_block", ctypes.c_uint64),
                ("memory_bandwidth", ctypes.c_double), ("name", ctypes.c_char * 256)]


class ProblemStruct(ctypes.Structure):
    """``BidiffCudaProblem``: one call of an operator on device pointers."""

    _fields_ = [("op", ctypes.c_int32), ("element", ctypes.c_int32),
                *((name, ctypes.c_int64) for name in ("batch", "channels", "height", "width",
                                                      "out_channels", "k", "groups")),
                ("branch", (ctypes.c_uint64 * 4) * 2),
                *((name, ctypes.c_uint64) for name in ("x", "second", "residual", "skip", "time",
                                                       "scale", "bias", "y")),
                *((name, ctypes.c_int32) for name in ("residual_is_scalar", "time_is_scalar",
                                                      "skip_is_scalar"))]


def device_count() -> int:
    """Number of GPUs that the driver sees. Raises EngineError without a driver."""
    count = ctypes.c_int()
    call("device_count", ctypes.byref(count))
    return count.value


def device_info(device: int = 0) -> DeviceInfo:
    """The GPU of that number. Raises EngineError if there is none. Opens no context."""
    found = _DeviceStruct()
    call("device_info", device, ctypes.byref(found))
    return DeviceInfo(found.ordinal, found.name.decode(errors="replace"), found.architecture,
                      found.multiprocessors, found.memory, found.shared_per_block,
                      found.memory_bandwidth, version_text(found.driver_version))


def embedded() -> Embedded:
    """The machine code that nvcc compiled into the library."""
    toolkit, size = ctypes.c_int(), ctypes.c_uint64()
    names = cuda_library().bidiff_cuda_embedded(ctypes.byref(toolkit), ctypes.byref(size))
    return Embedded(tuple(int(name) for name in names.split()),
                    version_text(toolkit.value) if size.value else "", size.value)


def load_kernels(device: int = 0, path: str = "auto") -> str:
    """Load the kernels of a path on a GPU, compiled first if needed; returns their origin.

    Raises:
        EngineError: no driver, no such GPU, one older than sm_75, or no kernels for it.
    """
    use_nvrtc_of_wheels()
    origin = ctypes.create_string_buffer(_ERROR_SIZE)
    call("load", device, path.encode(), origin, len(origin))
    return origin.value.decode(errors="replace")


def units() -> tuple[str, ...]:
    """Names of the device sources that are compiled, each by itself, such as maps.cu."""
    return tuple(_text("units").split())


def compile_unit(unit: str, architecture: int, driver_version: int,
                 folder: str | os.PathLike[str], option: str | None = None) -> str:
    """Compile an embedded source with NVRTC to a file in ``folder``; needs no GPU.

    Args:
        unit: one of :func:`units`.
        architecture: 75, 80, ...
        driver_version: of the driver that will load the file; 12040 for CUDA 12.4.
        folder: the file's folder; it is maps.cubin, or maps.ptx if NVRTC does not know the
            architecture.
        option: an additional compiler option.

    Returns:
        A sentence: which NVRTC compiled for which architecture.

    Raises:
        EngineError: no NVRTC, none of a suitable version, or it refuses the source.
    """
    use_nvrtc_of_wheels()
    report = ctypes.create_string_buffer(_ERROR_SIZE)
    call("compile", unit.encode(), architecture, driver_version,
         None if option is None else option.encode(), os.fsencode(folder), report, len(report))
    return report.value.decode(errors="replace")


def kernel_use(kernel: str, device: int = 0) -> KernelUse:
    """The resources that a kernel needs on a GPU. Raises EngineError as ``load_kernels``."""
    values = [ctypes.c_int() for _ in range(3)]
    call("kernel_use", device, kernel.encode(), *map(ctypes.byref, values))
    return KernelUse(*(value.value for value in values))


def paths(architecture: int) -> tuple[str, ...]:
    """Ways to compute sums on an architecture, the one expected to be fastest first."""
    return tuple(_text("paths", architecture).split())


def forced_path(device: int = 0) -> str:
    """The path that BIDIFF_CUDA_PATH forces, else "auto". Raises EngineError for a path that the
    device does not have."""
    return _text("forced_path", device)


def kernel_names(architecture: int) -> tuple[str, ...]:
    """Names of all kernels of an architecture."""
    return tuple(_text("kernel_names", architecture).split())


def launches(problem: ProblemStruct, architecture: int, path: str = "auto") -> list[Launch]:
    """A problem's launches, in order; needs no GPU. Raises EngineError for an invalid shape."""
    found = []
    for line in _text("launches", ctypes.byref(problem), architecture, path.encode()).splitlines():
        kernel, *sizes = line.split()
        numbers = [int(size) for size in sizes]
        found.append(Launch(kernel, (numbers[0], numbers[1], numbers[2]),
                            (numbers[3], numbers[4], numbers[5]), numbers[6], numbers[7]))
    return found


def version_text(version: int) -> str:
    """``"12.4"`` for CUDA's version number 12040."""
    return f"{version // 1000}.{version % 1000 // 10}"


@functools.lru_cache(maxsize=1)
def use_nvrtc_of_wheels() -> None:
    """Pass the library the compilers that pip has installed; BIDIFF_NVRTC precedes them."""
    files = "\n".join(str(file) for file in nvrtc_files())
    call("set_nvrtc", os.fsencode(files))


def call(function: str, *arguments: Any) -> None:
    """Call ``bidiff_cuda_<function>``. Raises EngineError with the library's sentence."""
    error = ctypes.create_string_buffer(_ERROR_SIZE)
    if getattr(cuda_library(), f"bidiff_cuda_{function}")(*arguments, error, len(error)):
        raise EngineError(error.value.decode(errors="replace"))


def _text(function: str, *arguments: Any) -> str:
    text = ctypes.create_string_buffer(_TEXT_SIZE)
    call(function, *arguments, text, len(text))
    return text.value.decode(errors="replace")


@functools.lru_cache(maxsize=1)
def cuda_library() -> ctypes.CDLL:
    """The op library with the signatures of engines/cuda/c_api.h.

    Raises:
        EngineError: the library is missing or of another version.
    """
    found = library.load()
    integer, size, pointer, text, any_pointer = (
        ctypes.c_int, ctypes.c_int64, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_void_p)
    text_out = [any_pointer, ctypes.c_size_t]
    signatures: dict[str, list[Any]] = {
        "device_count": [any_pointer],
        "device_info": [integer, any_pointer],
        "set_nvrtc": [text],
        "units": text_out,
        "compile": [text, integer, integer, text, text, *text_out],
        "load": [integer, text, *text_out],
        "kernel_use": [integer, text, any_pointer, any_pointer, any_pointer],
        "memory": [integer, any_pointer, any_pointer],
        "allocate": [integer, pointer, text, size, text, any_pointer],
        "release": [integer, pointer],
        "upload": [integer, pointer, any_pointer, pointer],
        "download": [integer, any_pointer, pointer, pointer],
        "paths": [integer, *text_out],
        "forced_path": [integer, *text_out],
        "kernel_names": [integer, *text_out],
        "prepared_bytes": [size, size, size, any_pointer],
        "workspace_bytes": [any_pointer, any_pointer],
        "launches": [any_pointer, integer, text, *text_out],
        "prepare": [integer, size, size, size, pointer, pointer],
        "run": [integer, any_pointer, text, pointer],
        "time": [integer, any_pointer, integer, text, pointer, integer, integer, any_pointer],
    }
    for name, arguments in signatures.items():
        try:
            getattr(found, f"bidiff_cuda_{name}").argtypes = [*arguments, *text_out]  # the error
        except AttributeError:
            raise EngineError(f"{library.library_path()} has no CUDA functions; rebuild it with "
                              f"{library.REINSTALL}") from None
    found.bidiff_cuda_embedded.argtypes = [any_pointer, any_pointer]
    found.bidiff_cuda_embedded.restype = text
    return found
