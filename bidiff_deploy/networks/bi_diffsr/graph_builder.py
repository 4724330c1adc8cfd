"""What all step graphs have in common: initializers, names, full-precision layers, the order.

``Builder`` writes the blocks of networks whose binary layers fit the fused operators; subclasses
write those of others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping

import numpy as np
import onnx_ir as ir

from .architecture import Block, blocks
from .config import NetworkConfig
from ...checkpoint.record import Checkpoint
from ...operators.definitions import functions
from ...operators.names import (ATTENTION, BINARY_DOWN, BINARY_FUSION, BINARY_UP, CONV3X3, DOMAIN,
                                NORM_BINARY_CONV, NORM_CONV, ONNX_OPSET, PAIR_CONV, VERSION, Body)
from ...operators.value_names import short
from .step_constants import layer_constants, pair_of_convolutions

IR_VERSION = 8  # the first with model-local functions: any onnxruntime since 1.11 reads it
Initializer = Callable[[str, Callable[[], np.ndarray]], ir.Value]


@dataclass(frozen=True)
class StepGraph:
    """A graph and the names of the initializers that differ from step to step."""

    model: ir.Model
    step_names: tuple[str, ...]


class Builder(Body):
    """Writes one step's graph; see ``graph.build_step``."""

    def __init__(self, checkpoint: Checkpoint, initializer: Initializer,
                 step_constants: Mapping[str, np.ndarray], compute: str) -> None:
        super().__init__()
        self.compute = compute
        self.checkpoint = checkpoint
        self.config: NetworkConfig = checkpoint.config
        self.make_initializer = initializer
        self.step_constants = step_constants
        self.initializers: dict[str, ir.Value] = {}
        self.step_names: list[str] = []

    # -- initializers ---------------------------------------------------------------------------
    def init(self, name: str, make: Callable[[], np.ndarray]) -> ir.Value:
        if name not in self.initializers:
            self.initializers[name] = self.make_initializer(name, make)
        return self.initializers[name]

    def parameter(self, name: str) -> ir.Value:
        return self.init(short(name), lambda: self.checkpoint.state[name])

    def step(self, name: str) -> ir.Value:
        key = short(name)
        if key not in self.initializers:
            self.step_names.append(key)
        return self.init(key, lambda: self.step_constants[name])

    # -- the network ----------------------------------------------------------------------------
    def build(self) -> StepGraph:
        config = self.config
        half = config.in_channel - config.out_channel
        noisy = _image("noisy", config.out_channel)
        condition = _image("condition", half)
        skips: list[ir.Value] = []
        x = self.op("Concat", condition, noisy, axis=1, name="input")
        for block in blocks(config):
            name = short(block.name)
            if block.kind == "stem":
                x = self.ours(CONV3X3, name, x, *self.weight_and_bias(block.name))
            elif block.kind == "head":
                x = self.ours(NORM_CONV, "prediction", x, *self.norm(f"{block.name}.norm"),
                              *self.weight_and_bias(f"{block.name}.conv"), self.none(),
                              self.none(), groups=config.norm_groups, compute=self.compute)
            elif block.kind == "residual":
                x = self.residual(x, block)
            elif block.kind == "down":
                x = self.down(x, block)
            elif block.kind == "up":
                x = self.up(x, block)
            else:
                x = self.fusion(x, skips.pop(), block)
            if block.pushes_skip:
                skips.append(x)
        x.shape = _image("", config.out_channel).shape
        x.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph([noisy, condition], [x], nodes=self.nodes,
                         initializers=list(self.initializers.values()),
                         opset_imports={"": ONNX_OPSET, DOMAIN: VERSION}, name="step")
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="bidiff_deploy",
                         functions=functions())
        return StepGraph(model, tuple(self.step_names))

    def residual(self, x: ir.Value, block: Block) -> ir.Value:
        name = short(block.name)
        half = self.norm_binary_conv if block.binary else self.norm_conv
        h = half(x, block, 1, f"{name}.h", self.step(f"{block.name}.time"), self.none())
        x = half(h, block, 2, name, self.none(), x)
        return self.attention(x, block) if block.attention else x

    def norm_binary_conv(self, x: ir.Value, block: Block, index: int, output: str, time: ir.Value,
                         skip: ir.Value) -> ir.Value:
        return self.ours(NORM_BINARY_CONV, output, x,
                         *self.norm(f"{block.name}.norm{index}"),
                         *self.branch(f"{block.name}.conv{index}"), time, skip,
                         groups=self.config.norm_groups)

    def norm_conv(self, x: ir.Value, block: Block, index: int, output: str, time: ir.Value,
                  skip: ir.Value) -> ir.Value:
        return self.ours(NORM_CONV, output, x, *self.norm(f"{block.name}.norm{index}"),
                         *self.weight_and_bias(f"{block.name}.conv{index}"), time, skip,
                         groups=self.config.norm_groups, compute=self.compute)

    def down(self, x: ir.Value, block: Block) -> ir.Value:
        return self.ours(BINARY_DOWN, short(block.name), x, *self.branches(block))

    def up(self, x: ir.Value, block: Block) -> ir.Value:
        return self.ours(BINARY_UP, short(block.name), x, *self.branches(block))

    def fusion(self, x: ir.Value, skip: ir.Value, block: Block) -> ir.Value:
        name = short(block.name)
        if block.binary:
            return self.ours(BINARY_FUSION, name, x, skip, *self.branches(block))
        return self.ours(PAIR_CONV, name, x, skip, *self.pair(block), compute=self.compute)

    def pair(self, block: Block) -> list[ir.Value]:
        """Weight and bias of the one convolution that both of a full-precision block make."""
        name = short(block.name)
        return [self.init(f"{name}.{part}", lambda part=part: pair_of_convolutions(
            self.checkpoint.state, block)[part]) for part in ("weight", "bias")]

    def attention(self, x: ir.Value, block: Block) -> ir.Value:
        long = f"{block.name}.attention"
        return self.ours(ATTENTION, short(long), x, *self.norm(f"{long}.norm"),
                         self.parameter(f"{long}.qkv.weight"), *self.weight_and_bias(f"{long}.out"),
                         groups=self.config.norm_groups, compute=self.compute)

    # -- layers ---------------------------------------------------------------------------------
    def ours(self, op: str, name: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        return self.op(op, *inputs, domain=DOMAIN, name=name, label=name, **attributes)

    def none(self) -> ir.Value:
        """An absent vector or map: one zero, because a function's inputs are all there."""
        return self.init("none", lambda: np.zeros(1, np.float32))

    def branches(self, block: Block) -> list[ir.Value]:
        return [value for half in (1, 2) for value in self.branch(f"{block.name}.conv{half}")]

    def branch(self, name: str) -> list[ir.Value]:
        """Words, alpha, threshold and rprelu of one binary layer."""
        key, weight = short(name), self.checkpoint.binary[f"{name}.weight"]
        words = self.init(f"{key}.words", lambda: weight.words)
        if self.config.binary_layers.grouped:
            return [words, self.init(f"{key}.alpha", lambda: weight.alpha),
                    self.step(f"{name}.threshold"), self.step(f"{name}.rprelu")]
        return [words, *(self.init(f"{key}.{part}", lambda value=value: value) for part, value
                         in layer_constants(self.checkpoint, name).items())]

    def norm(self, name: str) -> list[ir.Value]:
        return [self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")]

    weight_and_bias = norm


def _image(name: str, channels: int) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(["N", channels, "H", "W"]),
                    type=ir.TensorType(ir.DataType.FLOAT))
