"""The record of DiT-SR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...sampling.resshift import ANCESTRAL
from ..base import Parameter, Shapes, StepGraph, Store, Weights
from ..costs import Count
from ..resshift.record import LatentNetwork
from ..resshift.vq import VqConfig
from . import costs, recognition
from .architecture import DitSrConfig, parameters

__all__ = ["DitSr"]


class DitSr(LatentNetwork):
    """The diffusion transformer of Cheng et al. (AAAI 2025, arXiv 2409.19589)."""

    name = DitSrConfig.network
    title = "DiT-SR"
    config_class = DitSrConfig
    sampler = ANCESTRAL

    def step_parameters(self, config: DitSrConfig) -> Iterator[tuple[str, Parameter]]:
        return parameters(config)

    def matches(self, shapes: Shapes) -> bool:
        return recognition.is_dit_sr(shapes)

    def recognise_step(self, shapes: Shapes, given: Mapping[str, Any], autoencoder: VqConfig,
                       origin: str) -> tuple[DitSrConfig, list[str]]:
        return recognition.recognise(shapes, given, autoencoder, origin)

    def build_graph(self, weights: Weights, store: Store, timestep: int | None = None,
                    compute: str = "float32") -> StepGraph:
        from .graph import build_step

        assert timestep is not None, "a latent network has one graph per step"
        return build_step(weights, store, timestep)

    def count(self, config: DitSrConfig, height: int, width: int) -> Count:
        return costs.count(config, height, width)
