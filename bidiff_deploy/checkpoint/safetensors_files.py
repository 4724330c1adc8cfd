"""``.safetensors`` files as arrays. The library checks the file; bfloat16, which numpy does not
have, is read here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, one_line, quoted
from .torch_files import widened

__all__ = ["read_safetensors"]

MAX_HEADER_BYTES = 8 << 20  # of the published network 300 KB
_NUMPY = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


def read_safetensors(path: Path, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """``{key: array}``, floats as float32, and the metadata of a file of ``size`` bytes. Raises
    CheckpointError."""
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if MAX_HEADER_BYTES < length <= size:
                raise CheckpointError(f"{path} has a header of {length >> 20} MiB, more than a "
                                      "checkpoint can have; save its state dict alone")
            header: dict[str, Any] = {}
            state = {}
            with safe_open(str(path), framework="numpy") as stream:
                metadata: dict[str, str] = stream.metadata() or {}
                for key in stream.keys():
                    kind = stream.get_slice(key).get_dtype()
                    if kind in _NUMPY:
                        state[key] = widened(stream.get_tensor(key))
                        continue
                    if kind != "BF16":
                        raise CheckpointError(f"{path}: {quoted(key)} has numbers of type "
                                              f"{quoted(kind)}; save it as float32")
                    if not header:
                        file.seek(8)
                        header = json.loads(file.read(length))
                    first, end = header[key]["data_offsets"]
                    file.seek(8 + length + first)
                    value = np.frombuffer(file.read(end - first), "<u2")
                    state[key] = widened(value.reshape(header[key]["shape"]), bfloat16=True)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError,
            OverflowError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path} is not a readable .safetensors file ({one_line(error)}); "
                              "it may be truncated, so copy or download it again") from None
    return state, metadata
