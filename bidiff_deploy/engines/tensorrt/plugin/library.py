"""The plugin library for TensorRT: which one belongs to a version, and its functions.

TensorRT must be loaded first (``import tensorrt``). ``engines/tensorrt/README.md`` describes the
graphs that use it.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ....errors import EngineError
from ....files import open_own, user_folder
from ...gpu.nvrtc_files import nvrtc_files

__all__ = ["ABI_VERSION", "DESCRIPTION", "LIBRARIES", "PluginLibrary", "default_folder",
           "find_plugin"]

ABI_VERSION = 1
# Loading the first registers its plugins; the second is for TensorRT's own loadLibrary.
LIBRARIES = ("libbidiff_tensorrt.so", "libbidiff_tensorrt_dynamic.so")
DESCRIPTION = "plugin.json"

_ERROR_SIZE = 1024
_MAX_DESCRIPTION = 1 << 16

Int32 = npt.NDArray[np.int32]


def default_folder(version: tuple[int, ...]) -> Path:
    """The plugin's folder for a version of TensorRT, below $XDG_DATA_HOME or ~/.local/share."""
    return user_folder("XDG_DATA_HOME", ".local/share") / f"tensorrt-{version[0]}.{version[1]}"


def find_plugin(version: str) -> Path:
    """The library to load with a TensorRT of this version (``tensorrt.__version__``).

    BIDIFF_TENSORRT_PLUGIN names it; else it is the one that ``build-plugin`` wrote to the default
    folder of the version, or of an older minor version of the same major version.

    Raises:
        EngineError: there is none, or it was built for another major version.
    """
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        raise EngineError(f"TensorRT reports the version {version!r}, which is not a version")
    major, minor = int(parts[0]), int(parts[1])
    if named := os.environ.get("BIDIFF_TENSORRT_PLUGIN"):
        if not Path(named).is_file():
            raise EngineError(f"BIDIFF_TENSORRT_PLUGIN names {named}, which is not a file; build "
                              "it with bidiff-deploy build-plugin")
        return Path(os.path.realpath(named))
    for older in range(minor, -1, -1):
        file = default_folder((major, older)) / LIBRARIES[0]
        if file.is_file() and _built_for(file.with_name(DESCRIPTION)) == (major, older):
            return file
    raise EngineError(f"there is no plugin for TensorRT {major}.{minor}; build it with "
                      "bidiff-deploy build-plugin --tensorrt-root DIR, or name it with "
                      "BIDIFF_TENSORRT_PLUGIN")


class PluginLibrary:
    """The functions of a plugin library that Python calls.

    Raises:
        EngineError: it cannot be loaded, belongs to another version of this package, or could have
            been written by another user (``files.open_own``).
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        try:
            os.close(open_own(file))
            self._library = ctypes.CDLL(os.fspath(file))
            version = self._library.bidiff_tensorrt_abi_version()
        except (OSError, AttributeError) as failure:
            reason = (failure.strerror if isinstance(failure, OSError) else None) or failure
            raise EngineError(f"{file} cannot be loaded ({reason}); build it again with "
                              "bidiff-deploy build-plugin --overwrite") from None
        if version != ABI_VERSION:
            raise EngineError(f"{file} has ABI version {version}, but this package needs "
                              f"{ABI_VERSION}; build it again with bidiff-deploy build-plugin "
                              "--overwrite")
        size, pointer = ctypes.c_int64, ctypes.c_void_p
        error: list[Any] = [ctypes.c_void_p, ctypes.c_size_t]
        for name in ("version", "interface", "embedded"):
            getattr(self._library, f"bidiff_tensorrt_{name}").restype = ctypes.c_char_p
        self._library.bidiff_tensorrt_prepared_count.argtypes = [size] * 3 + [pointer, *error]
        self._library.bidiff_tensorrt_prepare.argtypes = [size] * 3 + [pointer] * 2 + error
        self._library.bidiff_tensorrt_set_nvrtc.argtypes = [ctypes.c_char_p, *error]
        self.file = Path(file)

    @property
    def tensorrt(self) -> str:
        """Version of the TensorRT headers that it was built with."""
        return str(self._library.bidiff_tensorrt_version().decode())

    @property
    def interface(self) -> str:
        """``IPluginV3`` or ``IPluginV2DynamicExt``."""
        return str(self._library.bidiff_tensorrt_interface().decode())

    @property
    def architectures(self) -> tuple[str, ...]:
        """GPU architectures whose machine code it contains; others need NVRTC."""
        return tuple(self._library.bidiff_tensorrt_embedded().decode().split())

    @property
    def layout(self) -> int:
        """The value of attribute ``layout`` of nodes whose words this library prepared."""
        return int(self._library.bidiff_tensorrt_layout())

    def use_nvrtc_of_wheels(self) -> None:
        """Pass the library the compilers that pip has installed; BIDIFF_NVRTC precedes them."""
        self._call("set_nvrtc", os.fsencode("\n".join(str(file) for file in nvrtc_files())))

    def prepare_words(self, words: Int32, in_channels: int) -> Int32:
        """The words in the layout that the kernels read.

        Args:
            words: int32 (Cout, k, k, ceil(in_channels/32)), k 1 or 3; padding bits are ignored.

        Returns:
            int32 (n,), for nodes with attributes ``kernel`` k and ``layout``.

        Raises:
            EngineError: shapes that differ from the op contract.
        """
        words = np.ascontiguousarray(words)
        shape = words.shape
        if (words.dtype != np.int32 or len(shape) != 4 or shape[1] != shape[2]
                or shape[3] != -(-in_channels // 32)):
            raise EngineError(f"words must be int32 (Cout, k, k, {-(-in_channels // 32)}) for "
                              f"{in_channels} channels, not {words.dtype} {shape}")
        sizes = (shape[0], in_channels, shape[1])
        count = ctypes.c_int64()
        self._call("prepared_count", *sizes, ctypes.byref(count))
        prepared = np.empty(count.value, np.int32)
        self._call("prepare", *sizes, words.ctypes.data, prepared.ctypes.data)
        return prepared

    def _call(self, function: str, *arguments: object) -> None:
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        if getattr(self._library, f"bidiff_tensorrt_{function}")(*arguments, error, len(error)):
            raise EngineError(error.value.decode(errors="replace"))


def _built_for(description: Path) -> tuple[int, int] | None:
    """Major and minor version of TensorRT that a plugin was built for; None if not stated."""
    try:
        with open(open_own(description), encoding="utf-8") as stream:
            version = json.loads(stream.read(_MAX_DESCRIPTION))["tensorrt"]
        major, minor, *_ = (int(part) for part in version.split("."))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return major, minor
