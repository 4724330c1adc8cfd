"""Trainer checkpoints: torch files in the published form plus what a resume needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..architecture import NetworkConfig, parameters
from ..errors import CheckpointError, OutputError


def published_state(named: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """This project's parameters -> published keys (detached copies)."""
    state = {}
    for name, parameter in parameters(config).items():
        value = named[name].detach()
        parts = value.unbind(0) if len(parameter.published) > 1 else [value]
        for key, part in zip(parameter.published, parts):
            state[key] = part.clone()
    return state


def from_published_state(state: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    result = {}
    for name, parameter in parameters(config).items():
        parts = [state[key] for key in parameter.published]
        result[name] = (torch.stack(parts) if len(parts) > 1 else parts[0]).reshape(parameter.shape)
    return result


def write_atomically(path: Path, value: Any) -> None:
    """torch.save under a temporary name in the same folder, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(value, temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: can not be written ({error.strerror})") from None
