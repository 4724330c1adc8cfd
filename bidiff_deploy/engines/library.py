"""The op library: its path, its kernels, and its functions called without ONNX Runtime.

The library is a shared object in this package, built from ``engines/`` at installation. ONNX
Runtime loads it with ``SessionOptions.register_custom_ops_library``; this module loads it with
ctypes, to report kernels and to compute single convolutions in tests and benchmarks. Bit order,
border rule and epilogue are defined in ``export/op_contract.md``.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..operators.sign_bits import WORD_BITS

__all__ = [
    "ABI_VERSION",
    "REINSTALL",
    "KernelInfo",
    "binary_conv",
    "binary_conv_sums",
    "float_kernels",
    "kernels",
    "library_path",
    "load",
    "missing_reason",
    "rounded_factors",
    "selected_kernel",
]

ABI_VERSION = 2
REINSTALL = "pip install --force-reinstall --no-deps . in the source folder"

_NAMES = ("libbidiff_ops.so", "libbidiff_ops.dylib", "bidiff_ops.dll")
_ERROR_SIZE = 1024
# Float kernels -> what they round to, if not to bfloat16.
_ROUNDED = {"avx2": "int16", "avx512": "int16"}

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class KernelInfo:
    """One kernel of the library; ``reason``: why this CPU cannot run it, empty if it can."""

    name: str
    compiled: bool
    supported: bool
    reason: str


def library_path() -> Path | None:
    """Path of the op library, or None if this installation has none.

    BIDIFF_OPS_LIBRARY names another build of the library, such as one with sanitizers.
    """
    override = os.environ.get("BIDIFF_OPS_LIBRARY")
    if override:
        return Path(override)
    here = Path(__file__).parent
    for name in _NAMES:
        if (here / name).is_file():
            return here / name
    # An editable installation has the library elsewhere; this import takes long.
    import importlib.resources

    folder = importlib.resources.files("bidiff_deploy.engines")
    for name in _NAMES:
        try:
            file = folder.joinpath(name)
            if file.is_file():
                return Path(str(file))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None


def missing_reason(effect: str = "so binary convolutions run slowly through ONNX function bodies"
                   ) -> str:
    """The sentence for an installation without the library: its ``effect`` and the remedy."""
    return (f"the op library is not built, {effect}; install a C++17 compiler (Debian/Ubuntu: "
            f"apt-get install g++) and run {REINSTALL}")


def kernels() -> list[KernelInfo]:
    """Every kernel of the library, best first.

    Raises:
        EngineError: the library is missing or of another version.
    """
    library = load()
    return [
        KernelInfo(
            library.bidiff_kernel_name(index).decode(),
            bool(library.bidiff_kernel_compiled(index)),
            bool(library.bidiff_kernel_supported(index)),
            library.bidiff_kernel_reason(index).decode(),
        )
        for index in range(library.bidiff_kernel_count())
    ]


def selected_kernel() -> str:
    """Name of the kernel this process uses: the one that BIDIFF_KERNEL names, else the best one
    that this CPU can run. The library reads BIDIFF_KERNEL once in a process.

    Raises:
        EngineError: the library is missing, or BIDIFF_KERNEL names a kernel that is unknown or
            cannot run here.
    """
    error = ctypes.create_string_buffer(_ERROR_SIZE)
    name = load().bidiff_selected_kernel(error, len(error))
    if name is None:
        raise EngineError(error.value.decode(errors="replace"))
    return str(name.decode())


def float_kernels() -> str:
    """Instruction set of the float kernels that are used with the selected kernel."""
    selected_kernel()
    return str(load().bidiff_float_kernels().decode())


def rounded_factors() -> str | None:
    """What the float kernels round factors of products to where a graph allows bfloat16: bfloat16,
    or int16, which is integers of 14 bits with scales. None if they multiply float32 all the same.
    """
    kernels = float_kernels()
    return _ROUNDED.get(kernels, "bfloat16") if load().bidiff_has_bfloat16() else None


def binary_conv_sums(x: Float32, words: Int32, threshold: Float32 | None = None,
                     kernel: str | None = None) -> Int32:
    """Sums of s(x + threshold) * s(w) over the taps inside the image, without epilogue.

    Args:
        x: float32 (N, Cin, H, W).
        words: int32 (Cout, k, k, ceil(Cin/32)), k 1 or 3; padding bits are ignored.
        threshold: float32 (Cin,), or None for zeros.
        kernel: name of a kernel, or None for the selected one.

    Returns:
        int32 (N, Cout, H, W).

    Raises:
        EngineError: the library or kernel is not available, or shapes are wrong.
    """
    x, words, shape = _inputs(x, words)
    batch, in_channels, out_channels, _, height, width = shape
    thresholds = _vector("threshold", threshold, (in_channels,))
    sums = np.empty((batch, out_channels, height, width), np.int32)
    _call("bidiff_binary_conv_sums", _name(kernel), _pointer(x), _pointer(words),
          _pointer(thresholds), *shape, _pointer(sums))
    return sums


def binary_conv(x: Float32, words: Int32, alpha: Float32, threshold: Float32 | None = None,
                rprelu: Float32 | None = None, residual: Float32 | None = None,
                time: Float32 | None = None, kernel: str | None = None) -> Float32:
    """The result of op ``bidiff::BinaryConv``, computed in the calling thread.

    Args:
        x, words, threshold, kernel: as in :func:`binary_conv_sums`.
        alpha: float32 (Cout,).
        rprelu: float32 (3, Cout), rows shift_in, slope, shift_out; or None.
        residual: float32 (N, Cout, H, W) or one element; or None.
        time: float32 (Cout,) or one element; or None.

    Returns:
        float32 (N, Cout, H, W), bit-identical for all kernels.

    Raises:
        EngineError: the library or kernel is not available, or shapes are wrong.
    """
    x, words, shape = _inputs(x, words)
    batch, in_channels, out_channels, _, height, width = shape
    output = (batch, out_channels, height, width)
    alphas = _vector("alpha", alpha, (out_channels,))
    threshold = _vector("threshold", threshold, (in_channels,))
    rprelu = _vector("rprelu", rprelu, (3, out_channels))
    residual = _vector("residual", residual, output, or_one=True)
    time = _vector("time", time, (out_channels,), or_one=True)
    y = np.empty(output, np.float32)
    _call("bidiff_binary_conv", _name(kernel), _pointer(x), _pointer(words), _pointer(alphas),
          _pointer(threshold), _pointer(rprelu),
          _pointer(residual), int(residual is not None and residual.size == 1),
          _pointer(time), int(time is not None and time.size == 1), *shape, _pointer(y))
    return y


def _inputs(x: Float32, words: Int32) -> tuple[Float32, Int32, tuple[int, ...]]:
    x, words = np.asarray(x), np.asarray(words)
    if x.dtype != np.float32 or x.ndim != 4:
        raise EngineError(f"x must be float32 (N, Cin, H, W), not {x.dtype} {x.shape}")
    taps = -(-x.shape[1] // WORD_BITS)
    if (words.dtype != np.int32 or words.ndim != 4 or words.shape[1] != words.shape[2]
            or words.shape[1] not in (1, 3) or words.shape[3] != taps):
        raise EngineError(f"words must be int32 (Cout, k, k, {taps}) with k 1 or 3 for x with "
                          f"{x.shape[1]} channels, not {words.dtype} {words.shape}")
    batch, in_channels, height, width = x.shape
    shape = (batch, in_channels, words.shape[0], words.shape[1], height, width)
    return np.ascontiguousarray(x), np.ascontiguousarray(words), shape


def _vector(name: str, value: Float32 | None, shape: tuple[int, ...],
            or_one: bool = False) -> Float32 | None:
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype != np.float32 or (value.shape != shape and not (or_one and value.size == 1)):
        one = " or one element" if or_one else ""
        raise EngineError(f"{name} must be float32 {shape}{one}, not {value.dtype} {value.shape}")
    return np.ascontiguousarray(value)


def _pointer(array: npt.NDArray[np.generic] | None) -> ctypes.c_void_p | None:
    return None if array is None else ctypes.c_void_p(array.ctypes.data)


def _name(kernel: str | None) -> bytes | None:
    return None if kernel is None else kernel.encode()


def _call(function: str, *arguments: object) -> None:
    error = ctypes.create_string_buffer(_ERROR_SIZE)
    if getattr(load(), function)(*arguments, error, len(error)):
        raise EngineError(error.value.decode(errors="replace"))


@functools.lru_cache(maxsize=1)
def load() -> ctypes.CDLL:
    """The library, loaded once in a process, with the signatures of its functions.

    Raises:
        EngineError: it is missing or of another version.
    """
    path = library_path()
    if path is None:
        raise EngineError(missing_reason())
    try:
        library = ctypes.CDLL(str(path))
        version = library.bidiff_abi_version()
    except (OSError, AttributeError) as failure:
        raise EngineError(f"{path} cannot be loaded ({failure}); rebuild it with {REINSTALL}"
                          ) from None
    if version != ABI_VERSION:
        raise EngineError(f"{path} has ABI version {version}, but this package needs "
                          f"{ABI_VERSION}; rebuild it with {REINSTALL}")
    pointer, integer, size, text = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_char_p)
    error: list[Any] = [ctypes.c_void_p, ctypes.c_size_t]
    for name in ("name", "reason"):
        getattr(library, f"bidiff_kernel_{name}").restype = text
    library.bidiff_selected_kernel.restype = text
    library.bidiff_float_kernels.restype = text
    library.bidiff_selected_kernel.argtypes = error
    library.bidiff_binary_conv_sums.argtypes = [
        text, pointer, pointer, pointer, *[size] * 6, pointer, *error]
    library.bidiff_binary_conv.argtypes = [
        text, pointer, pointer, pointer, pointer, pointer, pointer, integer, pointer, integer,
        *[size] * 6, pointer, *error]
    return library
