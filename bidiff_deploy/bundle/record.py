"""A verified bundle: of any network, and of a noise predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..networks import network_of
from ..networks.base import Network
from ..sampling.schedule import Schedule

__all__ = ["Bundle", "NoisePredictorBundle", "Step"]


@dataclass(frozen=True)
class Step:
    """One time step of a bundle.

    timestep  its number
    group     its TaR/TaA group
    file      name of its graph, which other runtimes read
    offsets   in the weights file, of the bundle's ``step_initializers``; empty in schema 1
    """

    timestep: int
    group: int
    file: str
    offsets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    path               its directory
    config, scale      the network's options and the upscaling factor
    steps              in order of sampling, time descending; a network that runs once has one
    step_initializers  names of the initializers that differ from step to step
    precision          type to which factors of full-precision products may be rounded: float32,
                       bfloat16 if the CPU multiplies it, float16, for maps too, or int8 for
                       ``Network.int8_layers``
    weights            name of the file of tensor bytes
    tensors            offset in it of every tensor that all steps share; empty in schema 1
    manifest           the content of ``manifest.json``
    data               the bytes of ``weights`` where the bundle is in memory and has no files
    """

    path: Path
    config: Any
    scale: int
    steps: tuple[Step, ...]
    step_initializers: tuple[str, ...]
    precision: str
    weights: str
    tensors: Mapping[str, int] = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False)
    data: npt.NDArray[np.uint8] | None = field(default=None, repr=False, compare=False,
                                               kw_only=True)

    @property
    def network(self) -> Network:
        """The record of its network."""
        return network_of(self.config)

    @property
    def schema(self) -> int:
        """Version of the bundle format."""
        return int(self.manifest["schema_version"])

    @property
    def bytes(self) -> int:
        """Size of all its files except the manifest."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())


@dataclass(frozen=True)
class NoisePredictorBundle(Bundle):
    """A verified bundle of a noise predictor.

    schedule       the noise schedule that it was trained with
    default_start  the time step at which sampling starts from the noised condition, or None to
                   start from pure noise at the first step
    noiseless      whether that start has no noise, so that the image alone decides the result
    """

    schedule: Schedule
    default_start: int | None
    noiseless: bool = False

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Its time steps, descending."""
        return tuple(step.timestep for step in self.steps)
