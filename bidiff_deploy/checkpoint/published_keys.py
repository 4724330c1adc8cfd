"""Published checkpoint keys <-> this project's parameter names.

``networks.parameters`` lists the published keys of each parameter; here whole state dicts are
renamed, stacked and split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import CheckpointError, listed
from ..networks import network_of, parameters
from ..networks.base import Config, Parameter

_REMEDY = "give the network's options with --options if they differ from the derived ones"
_MAX_MISSING = 1000


def from_published(state: Mapping[str, np.ndarray], config: Config,
                   origin: str = "checkpoint") -> dict[str, np.ndarray]:
    """Rename and stack the tensors of a published state dict.

    ``state``: ``{published key: array}`` without ``module.`` prefixes. Returns ``{name: array}``
    in the order and shapes of ``networks.parameters(config)``, dtypes unchanged. Raises
    CheckpointError, which names ``origin``, for missing, unexpected or misshapen tensors.
    """
    wanted: dict[str, Parameter] = {}
    known: set[str] = set()
    missing: list[str] = []
    for name, parameter in network_of(config).each_parameter(config):
        wanted[name] = parameter
        known.update(parameter.published)
        missing += [key for key in parameter.published if key not in state]
        if len(missing) > _MAX_MISSING:  # options may describe any number
            break
    faults = [f"{len(found)} {what} key{'s' if len(found) > 1 else ''} ({_first(found)})"
              for what, found in (("missing", missing),
                                  ("unexpected", sorted(set(state) - known))) if found]
    if faults:
        remedy = _REMEDY if missing else f"remove them from the state dict, or {_REMEDY}"
        raise CheckpointError(f"{origin}: {' and '.join(faults)}; {remedy}")
    result = {}
    for name, parameter in wanted.items():
        shape = parameter.shape[1:] if parameter.grouped else parameter.shape
        parts = []
        for key in parameter.published:
            value = state[key]
            if value.dtype.kind != "f":
                raise CheckpointError(f"{origin}: {key} has whole numbers ({value.dtype}), as in a "
                                      "quantised network; give its float32 checkpoint")
            # Published per-channel parameters are (1, C, 1, 1); here they are (C,).
            if value.size != math.prod(shape) or (
                    value.ndim == len(shape) and value.shape != shape):
                raise CheckpointError(f"{origin}: {key} has shape {tuple(value.shape)}, but the "
                                      f"network's options ask for {shape}; {_REMEDY}")
            parts.append(value.reshape(shape))
        result[name] = np.stack(parts) if parameter.grouped else parts[0]
    return result


def to_published(state: Mapping[str, np.ndarray],
                 config: Config) -> dict[str, np.ndarray]:
    """The inverse of ``from_published``: ``{published key: array}`` in the published shapes."""
    result = {}
    for name, parameter in parameters(config).items():
        parts = state[name] if parameter.grouped else [state[name]]
        for key, part in zip(parameter.published, parts):
            per_channel = parameter.grouped and not name.endswith(".slope")
            result[key] = part.reshape(1, -1, 1, 1) if per_channel else part
    return result


def _first(keys: Sequence[str]) -> str:
    return listed(keys[:3]) + (", ..." if len(keys) > 3 else "")
