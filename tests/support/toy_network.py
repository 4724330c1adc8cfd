"""A network that the package does not know: stem, one binary layer, head and PixelShuffle."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto, helper

from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.networks.base import (
    ONE_RUN,
    Network,
    Parameter,
    Shapes,
    StepGraph,
    Store,
    Weights,
)
from bidiff_deploy.networks.costs import Count, Layer
from bidiff_deploy.operators.definitions import functions
from bidiff_deploy.operators.names import BINARY_CONV, CONV3X3, DOMAIN, PLUGIN_VERSION
from bidiff_deploy.operators.node_writer import NodeWriter

SCALE = 2


@dataclass(frozen=True)
class ToyConfig:
    network: ClassVar[str] = "toy"

    channels: int = 24

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], origin: str) -> ToyConfig:
        try:
            return cls(**options)
        except TypeError as error:
            raise CheckpointError(f"{origin}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Toy(Network):
    name = ToyConfig.network
    title = "the toy"
    kind = ONE_RUN
    config_class = ToyConfig

    def parameters(self, config: ToyConfig) -> dict[str, Parameter]:
        wide, out = config.channels, 3 * SCALE ** 2
        shapes = {"stem.weight": (wide, 3, 3, 3), "stem.bias": (wide,),
                  "body.threshold": (1, wide), "body.shift_in": (1, wide), "body.slope": (1, wide),
                  "body.shift_out": (1, wide), "head.weight": (out, wide, 3, 3),
                  "head.bias": (out,)}
        found = {name: Parameter(shape, (f"toy.{name}",), grouped="body" in name)
                 for name, shape in shapes.items()}
        return {**found, "body.weight": Parameter((wide, wide, 3, 3), ("toy.body.weight",),
                                                  binary=True)}

    def binary_layers(self, config: ToyConfig) -> list[str]:
        return ["body"]

    def matches(self, shapes: Shapes) -> bool:
        return "toy.stem.weight" in shapes

    def recognise(self, shapes: Shapes, given: Mapping[str, Any],
                  origin: str) -> tuple[ToyConfig, list[str]]:
        return ToyConfig(shapes["toy.stem.weight"][0]), ["it is a toy"]

    def fixed_scale(self, config: ToyConfig) -> int:
        return SCALE

    def reach(self, config: ToyConfig) -> int:
        return 3 + 1

    def peak_bytes(self, config: ToyConfig, height: int, width: int, *,
                   stock: bool = False) -> int:
        return 64 * config.channels * height * width

    def work(self, config: ToyConfig, height: int, width: int) -> float:
        return height * width

    def build_graph(self, weights: Weights, store: Store, timestep: int | None = None,
                    compute: str = "float32") -> StepGraph:
        write, state = NodeWriter(store), weights.state

        def convolution(x: str, layer: str) -> str:
            parameters = [write.initializer(f"{layer}.{part}", state[f"{layer}.{part}"])
                          for part in ("weight", "bias")]
            return write.op(CONV3X3, x, *parameters, domain=DOMAIN, name=layer, label=True)

        x, weight = convolution("image", "stem"), weights.binary["body.weight"]
        rprelu = np.concatenate([state[f"body.{part}"]
                                 for part in ("shift_in", "slope", "shift_out")])
        constants = [write.initializer(f"body.{part}", value) for part, value in (
            ("words", weight.words), ("alpha", weight.alpha),
            ("threshold", state["body.threshold"][0]), ("rprelu", rprelu))]
        none = write.initializer("none", np.zeros(1, np.float32))
        x = write.op(BINARY_CONV, x, *constants, x, none, domain=DOMAIN, name="body", label=True,
                     plugin_namespace=DOMAIN, plugin_version=PLUGIN_VERSION)
        write.op("DepthToSpace", convolution(x, "head"), blocksize=SCALE, mode="CRD", name="large")
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
        return StepGraph(write.model("toy", [image], ["N", 3, "2*H", "2*W"], functions()))

    def count(self, config: ToyConfig, height: int, width: int) -> Count:
        shapes = {name: parameter.shape for name, parameter in self.parameters(config).items()}
        layers = [Layer(name, name == "body", shape := shapes[f"{name}.weight"], height, width,
                        math.prod(shape) * height * width, f"the {name}")
                  for name in ("stem", "body", "head")]
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        return Count(height, width, tuple(layers), sum(sizes.values()), sizes["body.weight"], 0)

    def usual_size(self, config: ToyConfig) -> tuple[int, int]:
        return 64, 64
