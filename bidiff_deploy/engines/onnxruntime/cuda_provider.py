"""ONNX Runtime's CUDA provider: whether it can start on this machine, and its settings."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import EngineError
from .. import library

PROVIDER = "CUDAExecutionProvider"
_INSTALL = "pip install 'bidiff-deploy[gpu]'"


@dataclass(frozen=True)
class Target:
    """The device of a session: its kind and number in ONNX Runtime's terms, the execution provider
    and the provider's options."""

    device: str
    device_id: int
    provider: str
    options: dict[str, str]


def cuda_target(device_id: int, cuda_graph: bool) -> Target:
    """The target of a session on a GPU. With BIDIFF_CUDA_ON_CPU=1, for tests, the CPU, where the op
    library runs its CUDA operators by the emulated driver that BIDIFF_LIBCUDA names."""
    if os.environ.get("BIDIFF_CUDA_ON_CPU", "0") not in ("", "0"):
        return Target("cpu", 0, "CPUExecutionProvider", {})
    return Target("cuda", device_id, PROVIDER, {
        "device_id": str(device_id),
        "enable_cuda_graph": "1" if cuda_graph else "0",
        # It rounds factors to 10 bits; the graph itself rounds what the bundle allows to round.
        "use_tf32": "0",
        # Chosen by table: algorithms chosen by timing, and so results, would differ between runs.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        # Activations are a few large blocks of the same sizes in every step; doubling would waste
        # memory.
        "arena_extend_strategy": "kSameAsRequested",
    })


def require_provider(ort: Any) -> None:
    """Raise EngineError if the installed ``onnxruntime`` cannot run on a GPU."""
    if PROVIDER not in ort.get_available_providers():
        raise EngineError(
            f"the installed onnxruntime {ort.__version__} is built without CUDA; pip uninstall -y "
            f"onnxruntime && {_INSTALL}, or choose backend onnxruntime, which needs no GPU")
    if missing := missing_libraries(ort):
        raise EngineError(
            f"the CUDA provider of onnxruntime {ort.__version__} needs {', '.join(missing)}, which "
            f"cannot be loaded; {_INSTALL}, or install the CUDA toolkit of that version and put "
            "its libraries on LD_LIBRARY_PATH")


def missing_libraries(ort: Any) -> list[str]:
    """Shared libraries that the provider is linked with and the loader does not find.

    The provider itself is not loaded, because ONNX Runtime has to initialize itself first.
    """
    preload = getattr(ort, "preload_dlls", None)  # loads those of NVIDIA's wheels; since 1.21
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            preload()
    file = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    missing = []
    for name in _needed(file):
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    return missing


def library_file() -> Path:
    """The op library's file. Raises EngineError without it: this backend has no fallback."""
    path = library.library_path()
    if path is None:
        raise EngineError(library.missing_reason("and backend onnxruntime-cuda needs it"))
    return path


def _needed(file: Path) -> list[str]:
    """NVIDIA's libraries that a shared object is linked with (DT_NEEDED); none for a file that is
    not 64-bit ELF."""
    try:
        with open(file, "rb") as stream:
            return [name for name in _dynamic_names(stream) if name.startswith(("libcu", "libnv"))]
    except (OSError, struct.error, UnicodeDecodeError):
        return []


def _dynamic_names(stream: BinaryIO) -> list[str]:
    """Names of all DT_NEEDED entries of a 64-bit little-endian ELF file."""
    def read(offset: int, form: str) -> tuple[int, ...]:
        stream.seek(offset)
        return struct.unpack("<" + form, stream.read(struct.calcsize("<" + form)))

    if stream.read(6) != b"\x7fELF\x02\x01":
        return []
    (headers,) = read(32, "Q")
    size, count = read(54, "HH")
    loads, dynamic = [], None
    for index in range(count):
        kind, _, offset, address, _, length = read(headers + index * size, "IIQQQQ")
        if kind == 1:  # PT_LOAD
            loads.append((address, offset, length))
        elif kind == 2:  # PT_DYNAMIC
            dynamic = (offset, length)
    if dynamic is None:
        return []
    entries = [read(dynamic[0] + 16 * index, "QQ") for index in range(dynamic[1] // 16)]
    table = next((value for tag, value in entries if tag == 5), None)  # DT_STRTAB
    if table is None:
        return []
    start = next((offset + table - address for address, offset, length in loads
                  if address <= table < address + length), table)
    names = []
    for tag, value in entries:
        if tag == 0:
            break
        if tag == 1:  # DT_NEEDED
            stream.seek(start + value)
            names.append(stream.read(256).split(b"\0")[0].decode())
    return names
