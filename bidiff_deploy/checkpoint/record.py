"""``Checkpoint``: a trained network, independent of the file format that it was read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, UsageError
from ..networks import network_of, parameters
from ..networks.base import LATENT, Config, Network
from ..networks.quantised import Bounds
from ..operators.sign_bits import BinaryWeight
from .options import check_scale

__all__ = ["Checkpoint", "at_scale", "from_latent", "known_scale", "upscaling_factor",
           "with_sampler"]


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, as export needs it.

    name         file name it was read from
    sha256       of that file, hex
    config       the network's options
    state        float32 parameters that are not binary, by the names of ``networks.parameters``
    binary       binary weights, by the same names
    scale        upscaling factor, or None if unknown, or not chosen of a network of several
    schedule     keyword arguments of its schedule, ``sampling.schedule.Schedule`` or, of a latent
                 network, ``sampling.resshift.ResShiftSchedule``; empty for a one-run network
    sampling     recommended ``timesteps`` (descending), ``steps``, ``start`` and, of a latent
                 network, ``sampler``, all optional
    assumptions  sentences about options that the file does not contain
    bounds       of the layers that an export in int8 quantises; no file contains them
    """

    name: str
    sha256: str
    config: Any
    state: Mapping[str, np.ndarray]
    binary: Mapping[str, BinaryWeight]
    scale: int | None = None
    schedule: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    bounds: Bounds = field(default_factory=dict)

    @property
    def network(self) -> Network:
        """The record of its network."""
        return network_of(self.config)

    @property
    def zeros(self) -> int:
        """Number of binary weights that were exactly zero and became +1."""
        return sum(weight.zeros for weight in self.binary.values())

    def latent(self) -> dict[str, np.ndarray]:
        """All parameters as float32, binary ones as latent weights that binarise to the same
        (usually alpha * sign), for a torch network to load."""
        return {name: self.network.latent(self.config, self.binary[name]) if parameter.binary
                else self.state[name]
                for name, parameter in parameters(self.config).items()}


def from_latent(latent: Mapping[str, np.ndarray], config: Config, *, name: str,
                sha256: str = "", origin: str | None = None, **rest: Any) -> Checkpoint:
    """Checkpoint from float parameters under this project's names (all of
    ``networks.parameters(config)``). ``rest``: other fields of Checkpoint. Raises
    CheckpointError, which names ``origin``, for NaN or infinite values."""
    origin = origin or name
    state, binary = {}, {}
    for key, parameter in parameters(config).items():
        value = np.ascontiguousarray(latent[key], np.float32)
        if parameter.binary:
            binary[key] = network_of(config).pack(config, value, f"{origin}: {key}")
        elif not np.isfinite(value).all():
            raise CheckpointError(f"{origin}: {key} contains NaN or infinite values; "
                                  "the training diverged, so use an earlier checkpoint")
        else:
            state[key] = value
    return Checkpoint(name, sha256, config, state, binary, **rest)


def at_scale(checkpoint: Checkpoint, scale: int | None) -> Checkpoint:
    """The checkpoint of a network of several upscaling factors as that of a network of ``scale``;
    as it is for None, and for a network without a choice. Raises CheckpointError for a factor that
    it does not have."""
    scales = checkpoint.network.scales(checkpoint.config)
    if scale is None or not scales:
        return checkpoint
    if scale not in scales:
        raise CheckpointError(f"{checkpoint.name} upscales by {_either(scales)}, not by {scale}")
    config, state = checkpoint.network.at_scale(checkpoint.config, checkpoint.state, scale)
    return replace(checkpoint, config=config, state=state, scale=scale)


def known_scale(checkpoint: Checkpoint) -> int:
    """Its upscaling factor. Raises UsageError if none is known or chosen."""
    if checkpoint.scale is not None:
        return checkpoint.scale
    if scales := checkpoint.network.scales(checkpoint.config):
        raise UsageError(f"{checkpoint.name} upscales by {_either(scales)}; choose one of these as "
                         "the scale (--scale)")
    raise UsageError(f"{checkpoint.name} does not state the factor it upscales by, and no tensor "
                     "shows it; give --scale 2 or --scale 4, or the options file")


def _either(scales: Sequence[int]) -> str:
    *some, last = map(str, scales)
    return f"{', '.join(some)} or {last}" if some else last


def with_sampler(checkpoint: Checkpoint, sampler: str | None) -> Checkpoint:
    """The checkpoint with another sampler; None: as it is. Raises UsageError for a network whose
    loop has no samplers to choose from."""
    if sampler is None:
        return checkpoint
    if checkpoint.network.kind != LATENT:
        raise UsageError(f"{checkpoint.name} is {checkpoint.network.title}, which has no other "
                         "sampler; leave --sampler out")
    return replace(checkpoint, sampling={**checkpoint.sampling, "sampler": sampler})


def upscaling_factor(config: Config, path: Path, *, given: int | None, in_options: int | None,
                     in_file: Any = None) -> int | None:
    """The upscaling factor that the architecture fixes, else the one that ``--scale``, the options
    file or the checkpoint states. Raises CheckpointError if two of these differ."""
    stated = {"--scale": given, "the options file": in_options,
              "the checkpoint": None if in_file is None else check_scale(in_file, str(path))}
    named = [(where, value) for where, value in stated.items() if value is not None]
    fixed = network_of(config).fixed_scale(config)
    for _, value in named:
        if fixed not in (None, value):
            raise CheckpointError(f"{path} upscales by {fixed}, which its upsampler fixes, and not "
                                  f"by {value}; leave the scale out")
    for where, value in named[1:]:
        if value != named[0][1]:
            raise CheckpointError(f"{path}: {named[0][0]} says scale {named[0][1]}, but {where} "
                                  f"says scale {value}; leave the wrong one out")
    return fixed or (named[0][1] if named else None)
