"""The record of BBCU-M."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...operators.names import WINOGRAD_TILE
from ..base import ONE_RUN, Network, Parameter, Shapes, StepGraph, Store, Weights
from ..costs import Count
from . import costs, memory, recognition
from .architecture import BbcuConfig, int8_layers, layers, parameters, winograd_layers

__all__ = ["Bbcu"]

_USUAL_SIDE = 256  # of the image that costs are reported for


class Bbcu(Network):
    """The network of Xia et al. (ICLR 2023, arXiv 2210.00405)."""

    name = BbcuConfig.network
    title = "BBCU-M"
    kind = ONE_RUN
    config_class = BbcuConfig
    tensor_options = ("alignment", "border")

    def parameters(self, config: BbcuConfig) -> dict[str, Parameter]:
        return parameters(config)

    def binary_layers(self, config: BbcuConfig) -> list[str]:
        return [layer.name for layer in layers(config) if layer.binary]

    def matches(self, shapes: Shapes) -> bool:
        return recognition.is_bbcu(shapes)

    def recognise(self, shapes: Shapes, given: Mapping[str, Any],
                  origin: str) -> tuple[BbcuConfig, list[str]]:
        return recognition.recognise(shapes, given, origin)

    def fixed_scale(self, config: BbcuConfig) -> int:
        return config.scale

    def reach(self, config: BbcuConfig) -> int:
        # The rounding of Winograd's algorithm depends on its tile's 6x6 pixels, up to 4 away.
        return config.reach + (WINOGRAD_TILE - 1) * len(winograd_layers(config))

    def tile_multiple(self, config: BbcuConfig) -> int:
        return WINOGRAD_TILE if config.float_layers else 1

    def peak_bytes(self, config: BbcuConfig, height: int, width: int, *,
                   stock: bool = False) -> int:
        return memory.image_bytes(config, height, width, stock=stock)

    def gpu_bytes(self, config: BbcuConfig, height: int, width: int, *, half: bool) -> int:
        return memory.gpu_bytes(config, height, width, half=half)

    def work(self, config: BbcuConfig, height: int, width: int) -> float:
        return height * width

    def build_graph(self, weights: Weights, store: Store, timestep: int | None = None,
                    compute: str = "float32") -> StepGraph:
        from .graph import build_graph

        return StepGraph(build_graph(weights, store, compute))

    def rounds(self, config: BbcuConfig) -> bool:
        return bool(winograd_layers(config))

    def int8_layers(self, config: BbcuConfig) -> dict[str, int]:
        return int8_layers(config)

    def count(self, config: BbcuConfig, height: int, width: int) -> Count:
        return costs.count(config, height, width)

    def usual_size(self, config: BbcuConfig) -> tuple[int, int]:
        return _USUAL_SIDE, _USUAL_SIDE
