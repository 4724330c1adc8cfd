"""A verified bundle: of any network, of a noise predictor, and of a latent network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..networks import network_of
from ..networks.base import STEP, Network
from ..sampling.resshift import ResShiftSchedule
from ..sampling.schedule import Schedule

__all__ = ["Bundle", "LatentBundle", "NoisePredictorBundle", "Part", "Step"]


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
class Part:
    """A graph that is no step's: name of its ``file``, and the offset in the weights file of each
    of its ``tensors``."""

    file: str
    tensors: Mapping[str, int] = field(repr=False)


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
    def places(self) -> int:
        """How many tensors it lists."""
        return len(self.tensors) + len(self.step_initializers)

    def of_part(self, part: str) -> Bundle:
        """The bundle as one of a single graph, that of ``part``; itself for STEP."""
        if part != STEP:
            raise ValueError(f"a bundle of kind {self.network.kind} has no {part}")
        return self

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


@dataclass(frozen=True)
class LatentBundle(Bundle):
    """A verified bundle of a latent network; ``steps`` and ``tensors`` are those of the network.

    schedule  the schedule that it was trained with
    sampler   of ``sampling.resshift.SAMPLERS``, how a loop goes from step to step
    parts     encoder and decoder
    """

    schedule: ResShiftSchedule
    sampler: str
    parts: Mapping[str, Part]

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Its time steps, descending."""
        return tuple(step.timestep for step in self.steps)

    @property
    def places(self) -> int:
        return super().places + sum(len(part.tensors) for part in self.parts.values())

    def of_part(self, part: str) -> Bundle:
        if part == STEP:
            return self
        found = self.parts[part]
        return Bundle(self.path, self.config, self.scale, (Step(0, 0, found.file),), (),
                      self.precision, self.weights, found.tensors, self.manifest, data=self.data)
