"""One step of the network as an ONNX graph, built node by node from the checkpoint.

Inputs ``noisy`` and ``condition``, output ``prediction``, each float32 (N, C, H, W) with N, H and W
free. All steps have the same nodes and names; only the initializers that ``StepGraph.step_names``
lists point to other bytes. Values carry the names of the blocks that compute them, shortened:
``e3`` is the output of ``encoder.3``, ``e3.h`` of its first half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ..architecture import Block, NetworkConfig, blocks
from ..checkpoint import Checkpoint
from ..op_definitions import functions
from ..ops import (
    ATTENTION,
    BINARY_DOWN,
    BINARY_FUSION,
    BINARY_UP,
    CONV3X3,
    DOMAIN,
    NORM_BINARY_CONV,
    NORM_CONV,
    ONNX_OPSET,
    PAIR_CONV,
    VERSION,
    Body,
)

IR_VERSION = 8  # the first with model-local functions: any onnxruntime since 1.11 reads it
_SHORT = (("encoder.", "e"), ("middle.", "m"), ("decoder.", "d"), (".conv", ".c"),
          (".attention", ".a"), (".norm", ".n"))
Initializer = Callable[[str, Callable[[], np.ndarray]], ir.Value]


def short(name: str) -> str:
    """A parameter's or block's name as graphs spell it: they stay small that way."""
    for long, brief in _SHORT:
        name = name.replace(long, brief)
    return name


@dataclass(frozen=True)
class StepGraph:
    """A graph and the names of the initializers that differ from step to step."""

    model: ir.Model
    step_names: tuple[str, ...]


def build_step(checkpoint: Checkpoint, initializer: Initializer,
               step_constants: Mapping[str, np.ndarray], compute: str = "float32") -> StepGraph:
    """Build the graph of one step.

    ``initializer(name, make)`` gives the initializer of that name, calling ``make`` for its value
    unless it has it already. ``step_constants``: ``X.threshold`` and ``X.rprelu`` of every BIConv
    X and ``B.time`` of every residual block B. ``compute``: the type that factors of full-precision
    products may be rounded to, one of ``ops.COMPUTE``.
    """
    return _Builder(checkpoint, initializer, step_constants, compute).build()


class _Builder(Body):
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
        weight = self.init(f"{name}.weight", lambda: self.pair_weight(block))
        bias = self.init(f"{name}.bias", lambda: self.sum_of(f"{block.name}.conv{half}.bias"
                                                             for half in (1, 2)))
        return self.ours(PAIR_CONV, name, x, skip, weight, bias, compute=self.compute)

    def pair_weight(self, block: Block) -> np.ndarray:
        """Both 1x1 convolutions of a full-precision CS-Fusion as one of [x; skip], float32
        (C, 2C, 1, 1). The first sees the odd channels of x, then the even ones of skip; the second
        the even ones of x, then the odd ones of skip. So every weight has a place of its own."""
        first, second = (self.checkpoint.state[f"{block.name}.conv{half}.weight"]
                         for half in (1, 2))
        channels = block.channels
        odd, even = channels // 2, channels - channels // 2  # how many there are of each
        weight = np.empty((channels, 2 * channels, 1, 1), np.float32)
        weight[:, 1:channels:2], weight[:, channels::2] = first[:, :odd], first[:, odd:]
        weight[:, 0:channels:2], weight[:, channels + 1::2] = second[:, :even], second[:, even:]
        return weight

    def sum_of(self, names: Iterable[str]) -> np.ndarray:
        return np.sum([self.checkpoint.state[name].astype(np.float64) for name in names],
                      axis=0).astype(np.float32)

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
        """Words, alpha, threshold and rprelu of one BIConv."""
        key, weight = short(name), self.checkpoint.binary[f"{name}.weight"]
        return [self.init(f"{key}.words", lambda: weight.words),
                self.init(f"{key}.alpha", lambda: weight.alpha),
                self.step(f"{name}.threshold"), self.step(f"{name}.rprelu")]

    def norm(self, name: str) -> list[ir.Value]:
        return [self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")]

    weight_and_bias = norm


def _image(name: str, channels: int) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(["N", channels, "H", "W"]),
                    type=ir.TensorType(ir.DataType.FLOAT))
