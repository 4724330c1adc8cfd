"""The state of a run in one small file, to continue it on another machine.

A safetensors file with what ``checkpoint.pt`` contains. Weights of convolutions and their averages
are float16, Adam's moments bfloat16, whose exponents reach the squares of small gradients; all
other tensors are float32. So a run that continues from it does not repeat the other bit for bit.
It has half the size of ``checkpoint.pt``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import CheckpointError, one_line
from ..files import atomic_file, make_directory

__all__ = ["read_portable", "write_portable"]

_KEY = "bidiff_training_state"
_WEIGHTS = ("params", "params_ema", "objective")
_PLAIN = ("recipe", "scaler", "iteration", "seconds", "best")


def write_portable(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``, which ``Trainer.state`` returned, once it is complete. Raises OutputError.
    """
    tensors = {f"{part}/{name}": value.half() if value.ndim == 4 else value.float()
               for part in _WEIGHTS for name, value in state[part].items()}
    optimizer = state["optimizer"]
    for index, moments in optimizer["state"].items():
        for name, value in moments.items():
            tensors[f"optimizer/{index}/{name}"] = (
                value.bfloat16() if value.ndim == 4 else value.float())
    plain = {**{key: state[key] for key in _PLAIN}, "param_groups": optimizer["param_groups"]}
    make_directory(path.parent)
    whole = {name: value.contiguous() for name, value in tensors.items()}
    with atomic_file(path, overwrite=True) as temporary:
        # Not save_file, which replaces the file, and with it its lock and its permissions.
        temporary.write_bytes(save(whole, {_KEY: json.dumps(plain)}))


def read_portable(path: Path) -> dict[str, Any]:
    """The state in such a file, float32, for ``Trainer.load_state``. Raises CheckpointError for
    another or a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            plain = json.loads((file.metadata() or {})[_KEY])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).float()
                                          for name in file.keys()}
        state: dict[str, Any] = {key: plain[key] for key in _PLAIN}
        state.update({part: {} for part in _WEIGHTS})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            if part == "optimizer":
                index, _, moment = rest.partition("/")
                moments.setdefault(int(index), {})[moment] = value
            else:
                state[part][rest] = value
        state["optimizer"] = {"state": moments, "param_groups": plain["param_groups"]}
    except Exception as error:  # damaged bytes make safetensors raise almost anything
        raise CheckpointError(f"{path}: cannot be read as the state of a run "
                              f"({one_line(error, 100)}); give one that run.state wrote") from None
    return state
