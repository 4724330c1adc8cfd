"""Raw tensors from untrusted files: ``.pth``/``.pt`` and ``.safetensors``.

Nothing is executed, and memory is in proportion to the file: at most MAX_GROWTH times its size for
the tensors, however often they refer to the same bytes, and the file itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import MAX_JSON_BYTES
from ..errors import CheckpointError, listed, quoted
from .file_kinds import check_file
from .pickles import Opaque, TensorView
from .safetensors_files import read_safetensors
from .torch_files import TorchFile, open_torch_file
from .wrappers import STATE_NAMES, choose_state, without_prefixes

__all__ = ["read_state"]

# Bytes of the tensors, as float32, for each byte of the file: 2 is float16, the rest is for
# tensors that share their numbers.
MAX_GROWTH = 4
_MAX_NAMES = 3


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """Tensors, metadata and remarks of a checkpoint file.

    Returns ``{key: array}``, floats as float32, without prefixes that all keys share; the metadata
    of a safetensors file, or ``recipe`` (JSON) of a training run's checkpoint; and sentences about
    choices made. Raises CheckpointError.
    """
    size = check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        state, metadata = read_safetensors(path, size)
        if "bidiff" in metadata:
            return state, metadata, []
        keys, notes = without_prefixes({key: value.shape for key, value in state.items()}, path)
        return {key: state[old] for key, old in keys.items()}, metadata, notes
    if suffix in (".pth", ".pt", ".ckpt", ".bin"):
        return _read_torch(path, size)
    raise CheckpointError(f"{path} has the ending {quoted(suffix)}; a checkpoint ends in .pth, "
                          ".pt, .ckpt, .bin or .safetensors")


def _read_torch(path: Path, size: int) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    file = open_torch_file(path, size)
    document = file.document
    name, found, notes = choose_state(document, lambda value: isinstance(value, TensorView)) \
        if isinstance(document, Mapping) else ("", {}, [])
    if file.foreign:
        raise _foreign(path, file, name)
    if not isinstance(document, Mapping):
        raise CheckpointError(f"{path} is not a checkpoint: it contains {_kind(document)}, not a "
                              "state dict; save the state dict of the network")
    for key, value in found.items():
        if isinstance(value, Opaque) and value.name == "torch._utils._rebuild_tensor_v3":
            raise CheckpointError(f"{path}: {quoted(key)} has numbers of a type that is not read; "
                                  "save it as float32")
        if isinstance(value, Opaque) and value.name.startswith("torch._utils._rebuild_"):
            raise CheckpointError(f"{path}: {quoted(key)} is not a plain dense tensor; "
                                  "save the state dict from the network itself")
    views = {key: value for key, value in found.items()
             if isinstance(key, str) and isinstance(value, TensorView)}
    keys, removed = without_prefixes({key: view.size for key, view in views.items()}, path)
    views = {key: views[old] for key, old in keys.items()}
    total = sum((8 if view.storage.element == "i8" else 4) * math.prod(view.size)
                for view in views.values())
    if total > MAX_GROWTH * size:
        raise CheckpointError(f"{path} has tensors of {total >> 20} MiB, more than {MAX_GROWTH} "
                              "times the file: they share their numbers; save contiguous copies")
    state = {}
    for key, view in views.items():
        try:
            state[key] = file.array(view)
        except ValueError as error:
            raise CheckpointError(f"{path}: {quoted(key)} cannot be read: {error}; it may be "
                                  "damaged, so copy or download it again") from None
    return state, _recipe(document), notes + removed


def _foreign(path: Path, file: TorchFile, name: str) -> CheckpointError:
    names = listed(file.foreign[:_MAX_NAMES]) + (", ..." if len(file.foreign) > _MAX_NAMES else "")
    part = "d"
    arrays = _arrays(file)
    if arrays is not None and not name:
        part += "".join(f"[{quoted(key)}]" for key in arrays.split(".") if key)
        part = f"{{k: torch.as_tensor(v) for k, v in {part}.items()}}"
    elif isinstance(file.document, Mapping) and not name:
        name = next((key for key, value in file.document.items()
                     if key in STATE_NAMES and isinstance(value, Opaque)), "")
        part += f"[{quoted(name)}].state_dict()" if name else ""
    elif isinstance(file.document, Mapping):
        part += "".join(f"[{quoted(key)}]" for key in name.split("."))
    else:
        part += ".state_dict()"
    return CheckpointError(
        f"{path} contains {names}: objects other than tensors, which could run code when loaded; "
        "if you trust it, save its weights alone: "
        f"d = torch.load({quoted(path.name, 200)}, map_location='cpu', weights_only=False); "
        f"torch.save({part}, {quoted(path.stem + '_weights.pth', 200)})")


def _arrays(file: TorchFile) -> str | None:
    """The name of the state dict that contains numpy's arrays, None if there is none."""
    if not isinstance(file.document, Mapping) or "numpy.ndarray" not in file.foreign:
        return None
    return choose_state(file.document, lambda value: isinstance(value, Opaque)
                        and value.name.endswith("._reconstruct"))[0]


def _kind(value: Any) -> str:
    if isinstance(value, TensorView):
        return "one tensor"
    if isinstance(value, Opaque):
        return quoted(value.name)
    return f"a value of type {type(value).__name__}"


def _recipe(document: Mapping[Any, Any]) -> dict[str, str]:
    """``{"recipe": JSON}`` of a training run's checkpoint, else nothing."""
    recipe = document.get("recipe")
    try:
        if isinstance(recipe, Mapping) and _spent(recipe, MAX_JSON_BYTES) > 0:
            return {"recipe": json.dumps(recipe, allow_nan=False)}
    except (TypeError, ValueError, RecursionError):
        pass  # another program's
    return {}


def _spent(value: Any, budget: int) -> int:
    """What is left of ``budget`` characters after ``value``. Raises ValueError where that is less
    than nothing: lists that contain each other twice are small in a file, and endless in JSON."""
    budget -= 8 + (len(value) if isinstance(value, (str, bytes)) else 0)
    if budget < 0:
        raise ValueError("too large")
    if isinstance(value, Mapping):
        value = [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)):
        for part in value:
            budget = _spent(part, budget)
    return budget
