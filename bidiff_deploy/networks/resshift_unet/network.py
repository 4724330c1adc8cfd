"""The records of ResShift's UNet, full precision and binary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...sampling.resshift import ANCESTRAL
from ..base import Parameter, Shapes, StepGraph, Store, Weights
from ..costs import Count
from ..resshift.record import LatentNetwork
from ..resshift.vq import VqConfig
from . import costs, recognition
from .architecture import parameters
from .config import BiMaCoSrConfig, UnetConfig

__all__ = ["BiMaCoSr", "ResShiftUnet"]


class ResShiftUnet(LatentNetwork):
    """The network of ResShift (NeurIPS 2023, arXiv 2307.12348) and SinSR (CVPR 2024, arXiv
    2311.14760), whose files have the same keys. One step, as SinSR's, is the same with either
    sampler."""

    name = UnetConfig.network
    title = "ResShift's UNet (SinSR)"
    config_class = UnetConfig
    sampler = ANCESTRAL
    one_step = True

    def step_parameters(self, config: UnetConfig) -> Iterator[tuple[str, Parameter]]:
        return parameters(config)

    def matches(self, shapes: Shapes) -> bool:
        return recognition.is_unet(shapes) and not recognition.is_binary(shapes)

    def recognise_step(self, shapes: Shapes, given: Mapping[str, Any], autoencoder: VqConfig,
                       origin: str) -> tuple[UnetConfig, list[str]]:
        config, assumptions = recognition.recognise(self.config_class, shapes, given, autoencoder,
                                                    origin)
        return config, [*assumptions, *self.usual_steps()]

    def usual_steps(self) -> list[str]:
        """What is assumed of the steps."""
        return ["one step unless --steps says otherwise, as SinSR; files of ResShift, made for 15, "
                "have the same keys"]

    def build_graph(self, weights: Weights, store: Store, timestep: int | None = None,
                    compute: str = "float32") -> StepGraph:
        from .graph import build_step

        assert timestep is not None, "a latent network has one graph per step"
        return build_step(weights, store, timestep)

    def count(self, config: UnetConfig, height: int, width: int) -> Count:
        return costs.count(config, height, width)


class BiMaCoSr(ResShiftUnet):
    """The binary form of Liu et al. (ICML 2025, arXiv 2502.00333)."""

    name = BiMaCoSrConfig.network
    title = "BiMaCoSR"
    config_class = BiMaCoSrConfig

    def matches(self, shapes: Shapes) -> bool:
        return recognition.is_unet(shapes) and recognition.is_binary(shapes)

    def unused_keys(self, shapes: Shapes) -> dict[str, str]:
        return {**super().unused_keys(shapes), **recognition.unused_binary(shapes)}

    def usual_steps(self) -> list[str]:
        return []
