"""The record of BI-DiffSR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...operators.sign_bits import BinaryWeight
from ..base import NOISE_PREDICTOR, Network, Parameter, Shapes, StepGraph, Store, Weights
from ..costs import Count
from . import costs, memory, recognition, scale_norm
from .architecture import binary_layers, each_parameter, int8_layers, parameters
from .binarizers import PLANES
from .bit_planes import bit_planes
from .config import NetworkConfig

__all__ = ["BiDiffSr"]


class BiDiffSr(Network):
    """The noise predictor of Chen et al. (NeurIPS 2024, arXiv 2406.05723)."""

    name = NetworkConfig.network
    title = "BI-DiffSR"
    kind = NOISE_PREDICTOR
    config_class = NetworkConfig
    tensor_options = ("preconditioning",)

    def parameters(self, config: NetworkConfig) -> dict[str, Parameter]:
        return parameters(config)

    def each_parameter(self, config: NetworkConfig) -> Iterator[tuple[str, Parameter]]:
        return each_parameter(config)

    def binary_layers(self, config: NetworkConfig) -> list[str]:
        return binary_layers(config)

    def pack(self, config: NetworkConfig, weight: npt.NDArray[Any], name: str) -> BinaryWeight:
        return config.binary_layers.pack(weight, name)

    def node_weight(self, config: NetworkConfig, binary: Mapping[str, BinaryWeight],
                    name: str) -> BinaryWeight:
        layer, _, index = name.partition(PLANES)
        weight = binary[f"{layer}.weight"]
        if not index:
            return weight
        plane = bit_planes(*config.binary_layers.bits)[int(index)]
        return weight.plane(plane.weight)

    def latent(self, config: NetworkConfig, packed: BinaryWeight) -> npt.NDArray[Any]:
        return config.binary_layers.latent(packed)

    def matches(self, shapes: Shapes) -> bool:
        return "downs.0.weight" in shapes

    def recognise(self, shapes: Shapes, given: Mapping[str, Any],
                  origin: str) -> tuple[NetworkConfig, list[str]]:
        return recognition.recognise(shapes, given, origin)

    def scales(self, config: NetworkConfig) -> tuple[int, ...]:
        return config.scales

    def at_scale(self, config: NetworkConfig, state: Mapping[str, np.ndarray],
                 scale: int) -> tuple[NetworkConfig, dict[str, np.ndarray]]:
        return scale_norm.at_scale(config, state, scale)

    def size_multiple(self, config: NetworkConfig) -> int:
        return config.size_multiple

    def peak_bytes(self, config: NetworkConfig, height: int, width: int, *,
                   stock: bool = False) -> int:
        return memory.step_bytes(config, height, width, stock=stock)

    def gpu_bytes(self, config: NetworkConfig, height: int, width: int, *, half: bool) -> int:
        return memory.cuda_step_bytes(config, height, width, half=half)

    def work(self, config: NetworkConfig, height: int, width: int) -> float:
        return memory.step_work(config, height, width)

    def build_graph(self, weights: Weights, store: Store, timestep: int | None = None,
                    compute: str = "float32") -> StepGraph:
        from .graph import build_step

        assert timestep is not None, "a noise predictor has one graph per step"
        return build_step(weights, store, timestep, compute)

    def int8_layers(self, config: NetworkConfig) -> dict[str, int]:
        return int8_layers(config)

    def group(self, config: NetworkConfig, timestep: int) -> int:
        return config.group(timestep)

    def count(self, config: NetworkConfig, height: int, width: int) -> Count:
        return costs.count(config, height, width)

    def usual_size(self, config: NetworkConfig) -> tuple[int, int]:
        side = -(-config.image_size // config.size_multiple) * config.size_multiple
        return side, side
