"""What passes work on: a graph on its way to a runtime, and the options of the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx

from ..bundle.step_graphs import StepGraphs
from ..networks.base import NOISE_PREDICTOR
from ..operators.shapes import Shape
from .graph_writer import Array
from .opset import OPSET

__all__ = ["Options", "ParameterizedGraph", "Words"]


@dataclass(frozen=True)
class ParameterizedGraph:
    """A graph that takes its step's constants as inputs, so that one session runs every step.

    A pass returns another one, and may change the model of the one that it was given.

    model         initializers may be external; the values of these are in ``constants``
    constants     ``{name: array}``, views of the weights file where a pass did not change them
    inputs        names of the inputs that are a step's constants: initializers lifted to inputs by
                  the pass ``parameterize``, empty before it
    float32       outputs of nodes that are computed in float32 whatever the type of maps: first
                  layers, and sums with the image itself; from ``inline`` on
    shapes        of every value for one image, those inside fused operators included; from
                  ``inline`` on
    """

    model: onnx.ModelProto
    constants: dict[str, Array] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    float32: frozenset[str] = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict)

    def serialized(self) -> bytes:
        """The model as bytes, the same for equal models."""
        data: bytes = self.model.SerializeToString(deterministic=True)
        return data


class Words(Protocol):
    """What prepares sign words for the plugin: ``engines.tensorrt.plugin.library``."""

    @property
    def layout(self) -> int:
        """The number of the form that ``prepare_words`` returns."""

    def prepare_words(self, words: npt.NDArray[np.int32], in_channels: int
                      ) -> npt.NDArray[np.int32]:
        """The words in the form that the kernels read."""


@dataclass(frozen=True)
class Options:
    """What a target asks of the passes.

    graphs   reads the bundle
    float16  whether maps between the first layer and the prediction are float16
    int8     whether binary convolutions without plugin are quantised to int8
    plugin   prepares words for the plugin's nodes; None: words stay as in the bundle
    shape    (N, H, W) of the images; None: free
    opset    of standard operators, 17 or 19
    """

    graphs: StepGraphs
    float16: bool = False
    int8: bool = False
    plugin: Words | None = None
    shape: tuple[int, int, int] | None = None
    opset: int = OPSET

    @property
    def loop(self) -> bool:
        """Whether the graph is run once per time step."""
        return self.graphs.bundle.network.kind == NOISE_PREDICTOR
