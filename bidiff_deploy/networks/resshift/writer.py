"""Writes the layers that networks of the ResShift family are made of, in standard ONNX operators.

Maps are float32 (N, C, H, W) unless said otherwise. Values have the short names of the layers that
compute them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from ...operators.node_writer import NodeWriter
from ...operators.value_names import short
from ..base import StepGraph, Store, Weights

__all__ = ["GROUPS", "Writer"]

GROUPS = 32  # of every GroupNorm of the family


class Writer(NodeWriter):
    """Writes one graph of a network.

    ``step_constants``: arrays that differ from step to step, by name.
    """

    def __init__(self, weights: Weights, store: Store,
                 step_constants: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(store)
        self.weights = weights
        self.step_constants = step_constants or {}
        self.step_names: list[str] = []

    # -- initializers -----------------------------------------------------------------------------
    def parameter(self, name: str) -> str:
        """A parameter as it is in the checkpoint."""
        return self.initializer(short(name), self.weights.state[name])

    def step(self, name: str) -> str:
        """An initializer that differs from step to step."""
        self.step_names.append(short(name))
        return self.initializer(short(name), self.step_constants[name])

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.float32(value), f"number_{value:g}")

    # -- layers -----------------------------------------------------------------------------------
    def convolution(self, x: str, name: str, *, stride: int = 1,
                    pads: tuple[int, int, int, int] | None = None) -> str:
        """A convolution with bias, padded to keep the size unless ``pads`` (top, left, bottom,
        right) says otherwise."""
        k = self.weights.state[f"{name}.weight"].shape[-1]
        return self.op("Conv", x, self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias"),
                       kernel_shape=[k, k], strides=[stride] * 2,
                       pads=list(pads or [k // 2] * 4), name=short(name), label=True)

    def group_norm(self, x: str, name: str, epsilon: float, groups: int = GROUPS) -> str:
        """GroupNorm. InstanceNormalization over (N, groups, rest) is GroupNorm before its scale
        and bias, which are per channel."""
        key = short(name)
        ones, zeros = (self.constant(np.full(groups, value, np.float32), f"{label}_{groups}")
                       for value, label in ((1, "ones"), (0, "zeros")))
        grouped = self.op("Reshape", x, self.integers(f"groups_{groups}", 0, groups, -1),
                          name=f"{key}/grouped")
        normal = self.op("InstanceNormalization", grouped, ones, zeros, epsilon=epsilon,
                         name=f"{key}/normal")
        normal = self.op("Reshape", normal, self.op("Shape", x, name=f"{key}/shape"),
                         name=f"{key}/map")
        scale, bias = (self.op("Reshape", self.parameter(f"{name}.{part}"),
                               self.integers("per_channel", 1, -1, 1, 1), name=f"{key}/{part}")
                       for part in ("weight", "bias"))
        return self.op("Add", self.op("Mul", normal, scale, name=f"{key}/scaled"), bias, name=key)

    def silu(self, x: str, name: str) -> str:
        """x sigmoid(x); ``name``: of the output."""
        return self.op("Mul", x, self.op("Sigmoid", x, name=f"{name}/gate"), name=name)

    def nearest_twice(self, x: str, name: str) -> str:
        """A map twice as high and wide, by repetition."""
        scales = self.constant(np.array([1, 1, 2, 2], np.float32), "twice")
        return self.op("Resize", x, "", scales, mode="nearest", nearest_mode="floor",
                       coordinate_transformation_mode="asymmetric", name=name)

    # -- the graph --------------------------------------------------------------------------------
    def finished(self, title: str, inputs: Mapping[str, int], output: str, channels: int,
                 functions: Iterable[FunctionProto] = (), sides: str = "HW") -> StepGraph:
        """The graph of the nodes, the last of which computes ``output``.

        ``inputs``: channels of each input. ``functions``: definitions of operators of ours.
        ``sides``: names of the output's height and width.
        """
        assert self.nodes[-1].output[0] == output
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", count, "H", "W"])
                 for name, count in inputs.items()]
        model = self.model(title, given, ["N", channels, *sides], functions)
        return StepGraph(model, tuple(self.step_names))
