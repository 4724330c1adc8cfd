"""Raw tensors from untrusted files: ``.pth``/``.pt`` and ``.safetensors``.

Nothing is executed: torch's reader runs with ``weights_only=True``, safetensors contains only
numbers. Tensors are at most as large as the file, so a small file cannot use much memory.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, one_line

MAX_BYTES = 4 << 30
# Keys that a state dict may be wrapped in, best first: validation uses averaged weights.
WRAPPERS = ("params_ema", "params", "state_dict", "model")


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """Tensors, metadata and remarks of a checkpoint file.

    Returns ``{key: array}`` without ``module.`` prefixes and with floats as float32; the metadata
    of a safetensors file, or ``recipe`` (JSON) of a training run's checkpoint; and sentences about
    choices made. Raises CheckpointError.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; give the checkpoint file inside it")
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}; check the path") from None
    if size == 0:
        raise CheckpointError(f"{path} is empty; copy or download the checkpoint again")
    if size > MAX_BYTES:
        raise CheckpointError(f"{path} has {size >> 20} MiB, more than the {MAX_BYTES >> 20} MiB "
                              "a checkpoint may have")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
        notes: list[str] = []
    elif suffix in (".pth", ".pt", ".ckpt"):
        state, metadata, notes = _read_torch(path, size)
    else:
        raise CheckpointError(
            f"{path} has the ending '{suffix}'; a checkpoint ends in .pth, .pt or .safetensors")
    return _strip_prefix(state, path), metadata, notes


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as stream:
            metadata = stream.metadata() or {}
            state = {key: _as_float32(stream.get_tensor(key)) for key in stream.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError,
            OverflowError) as error:
        raise CheckpointError(f"{path} is not a readable .safetensors file ({one_line(error)}); "
                              "it may be truncated, so copy or download it again") from None
    return state, metadata


def _read_torch(path: Path, size: int) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{path} needs torch to be read; pip install 'bidiff-deploy[train]', or convert it to "
            ".safetensors with `bidiff-deploy pack` on a machine that has torch") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, which users need not see
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch says this of refused globals, and pickle says it of files that are no pickles.
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} is not a plain state dict: it is damaged or contains objects other than "
                "tensors, which could run code when loaded; save only the state dict") from None
        raise _unreadable(path) from None
    except MemoryError:
        raise CheckpointError(f"{path} does not fit into memory; use a machine with more") from None
    except Exception:  # torch raises RuntimeError, EOFError, KeyError, ... for damaged files
        raise _unreadable(path) from None
    found, notes = _unwrap(document, path)
    state = {}
    for key, value in found.items():
        if not isinstance(value, torch.Tensor):
            continue  # counters and other values; missing keys are reported later
        if value.is_sparse or value.is_quantized or value.device.type != "cpu" or (
                value.numel() * value.element_size() > size):
            raise CheckpointError(f"{path}: {key} is not a plain dense tensor; "
                                  "save the state dict from the network itself")
        value = value.detach()
        state[str(key)] = _as_float32(
            (value.float() if value.is_floating_point() else value).contiguous().numpy())
    return state, _recipe(document), notes


def _recipe(document: Any) -> dict[str, str]:
    recipe = document.get("recipe") if isinstance(document, Mapping) else None
    try:
        return {"recipe": json.dumps(recipe)} if isinstance(recipe, Mapping) else {}
    except (TypeError, ValueError, RecursionError):
        return {}  # another program's


def _unwrap(document: Any, path: Path) -> tuple[Mapping[Any, Any], list[str]]:
    if isinstance(document, Mapping):
        present = [key for key in WRAPPERS if isinstance(document.get(key), Mapping)]
        if len(present) > 1:
            return document[present[0]], [f"{present[0]} was taken; the file also has "
                                          f"{', '.join(present[1:])}"]
        return (document[present[0]] if present else document), []
    raise CheckpointError(f"{path} is not a checkpoint: it contains a {type(document).__name__}, "
                          "not a state dict; save the state dict of the network")


def _unreadable(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is not a readable torch checkpoint; it may be truncated, "
                           "so copy or download it again")


def _as_float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype.kind == "f" else value


def _strip_prefix(state: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    prefix = "module."
    result = {}
    for key, value in state.items():
        short = key
        while short.startswith(prefix):
            short = short[len(prefix):]
        if short in result:
            raise CheckpointError(f"{path} contains {short} twice, with and without '{prefix}'; "
                                  "save one state dict")
        result[short] = value
    return result
