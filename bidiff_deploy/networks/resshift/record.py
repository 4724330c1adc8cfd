"""``LatentNetwork``: the record of a network that predicts an autoencoder's clean latent."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ...errors import CheckpointError
from ...sampling.resshift import ResShiftSchedule
from ..base import (
    DECODER,
    ENCODER,
    LATENT,
    STEP,
    Network,
    Parameter,
    Shapes,
    StepGraph,
    Store,
    Weights,
)
from ..costs import Count
from . import memory, vq
from .costs import part_count
from .vq import VqConfig

__all__ = ["BUFFERS", "LatentNetwork", "split_shapes"]

# Buffers of published files that are computed from the options.
BUFFERS = {"relative_position_index": "which row of a bias table belongs to which pair",
           "attn_mask": "the shift mask at the training size"}


class LatentNetwork(Network):
    """A network of the ResShift family; a config has ``autoencoder``, ``image_size`` and
    ``size_multiple``.

    sampler    of ``sampling.resshift.SAMPLERS``, of its published use
    one_step   whether its published use is one step, at the highest time
    """

    kind = LATENT
    computes = ("float32",)
    one_step: ClassVar[bool] = False

    @abc.abstractmethod
    def step_parameters(self, config: Any) -> Iterator[tuple[str, Parameter]]:
        """Parameters of the network itself, named by their published keys, in order of
        execution."""

    @abc.abstractmethod
    def recognise_step(self, shapes: Shapes, given: Mapping[str, Any], autoencoder: VqConfig,
                       origin: str) -> tuple[Any, list[str]]:
        """As ``recognise``, of the network's own keys."""

    # -- both networks ----------------------------------------------------------------------------
    def timesteps(self, schedule: ResShiftSchedule) -> tuple[int, ...]:
        return schedule.spaced_timesteps(1) if self.one_step else schedule.all_timesteps()

    def each_parameter(self, config: Any) -> Iterator[tuple[str, Parameter]]:
        yield from self.step_parameters(config)
        yield from vq.parameters(config.autoencoder)

    def parameters(self, config: Any) -> dict[str, Parameter]:
        return dict(self.each_parameter(config))

    def binary_layers(self, config: Any) -> list[str]:
        return [name.removesuffix(".weight") for name, parameter in self.step_parameters(config)
                if parameter.binary]

    def unused_keys(self, shapes: Shapes) -> dict[str, str]:
        return {key: why for key in shapes
                if (why := BUFFERS.get(key.rpartition(".")[2])) is not None}

    def recognise(self, shapes: Shapes, given: Mapping[str, Any],
                  origin: str) -> tuple[Any, list[str]]:
        own, encoder = split_shapes(shapes)
        if not encoder:
            raise CheckpointError(f"{origin} is {self.title} without its autoencoder, which is a "
                                  "file of its own; give it with --autoencoder, ResShift's is "
                                  "autoencoder_vq_f4.pth")
        found = vq.recognise(encoder, f"{origin}, its autoencoder")
        if "autoencoder" in given:
            stated = VqConfig.from_any(given["autoencoder"], f"{origin}: autoencoder")
            if stated != found:
                raise CheckpointError(f"{origin}: the options state another autoencoder than the "
                                      "one that was given; give the options it was trained with")
        rest = {name: value for name, value in given.items() if name != "autoencoder"}
        return self.recognise_step(own, rest, found, origin)

    def fixed_scale(self, config: Any) -> int:
        """The condition is as large as a latent, so the output is ``factor`` times larger."""
        factor: int = config.autoencoder.factor
        return factor

    # -- running ----------------------------------------------------------------------------------
    def size_multiple(self, config: Any) -> int:
        """Of a latent, which is as large as the low-resolution image."""
        multiple: int = config.size_multiple
        return multiple

    def peak_bytes(self, config: Any, height: int, width: int, *, stock: bool = False) -> int:
        return memory.peak_bytes(config.autoencoder, height, width)

    def work(self, config: Any, height: int, width: int) -> float:
        return memory.relative_work(height, width)

    # -- export and counting ----------------------------------------------------------------------
    def build_part(self, weights: Weights, store: Store, part: str) -> StepGraph:
        from .vq_graph import build_part

        return build_part(weights, store, part)

    def counts(self, config: Any, height: int, width: int) -> dict[str, Count]:
        factor = config.autoencoder.factor
        return {ENCODER: part_count(config.autoencoder, ENCODER, height * factor, width * factor),
                STEP: self.count(config, height, width),
                DECODER: part_count(config.autoencoder, DECODER, height, width)}

    def usual_size(self, config: Any) -> tuple[int, int]:
        """Of a latent."""
        side = -(-config.image_size // config.size_multiple) * config.size_multiple
        return side, side


def split_shapes(shapes: Shapes) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Published shapes of the network, and of the autoencoder without its prefix."""
    own: dict[str, tuple[int, ...]] = {}
    encoder: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        rest = key.removeprefix(vq.PUBLISHED)
        (encoder if rest != key else own)[rest] = shape
    return own, encoder
