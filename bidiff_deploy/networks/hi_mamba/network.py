"""Hi-Mamba's record: a network without a loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base import ONE_RUN, Network, Parameter, Shapes, StepGraph, Store, Weights
from ..costs import Count
from . import costs, memory, recognition
from .architecture import HiMambaConfig, parameters

__all__ = ["HiMamba"]

_USUAL_SIDE = 256  # of the image that costs are reported for


class HiMamba(Network):
    """The network of Qiao et al. (arXiv 2410.10140), as ``architecture`` describes it."""

    name = HiMambaConfig.network
    title = "Hi-Mamba"
    kind = ONE_RUN
    config_class = HiMambaConfig
    tensor_options = ("region",)
    computes = ("float32",)
    in_one_file = False  # its scans and LayerNorms are beyond the operators that all programs read

    def parameters(self, config: HiMambaConfig) -> dict[str, Parameter]:
        return parameters(config)

    def binary_layers(self, config: HiMambaConfig) -> list[str]:
        return []

    def matches(self, shapes: Shapes) -> bool:
        return recognition.is_hi_mamba(shapes)

    def recognise(self, shapes: Shapes, given: Mapping[str, Any],
                  origin: str) -> tuple[HiMambaConfig, list[str]]:
        return recognition.recognise(shapes, given, origin)

    def fixed_scale(self, config: HiMambaConfig) -> int:
        return config.scale

    def peak_bytes(self, config: HiMambaConfig, height: int, width: int, *,
                   stock: bool = False) -> int:
        return memory.image_bytes(config, height, width, stock=stock)

    def work(self, config: HiMambaConfig, height: int, width: int) -> float:
        return height * width

    def build_graph(self, weights: Weights, store: Store, timestep: int | None = None,
                    compute: str = "float32") -> StepGraph:
        from .graph import build_graph

        return StepGraph(build_graph(weights, store))

    def count(self, config: HiMambaConfig, height: int, width: int) -> Count:
        return costs.count(config, height, width)

    def usual_size(self, config: HiMambaConfig) -> tuple[int, int]:
        return _USUAL_SIDE, _USUAL_SIDE
