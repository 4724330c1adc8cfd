"""One step of the network as an ONNX graph, built node by node from the checkpoint.

Inputs ``noisy`` and ``condition``, output ``prediction``, each float32 (N, C, H, W) with N, H and W
free. All steps have the same nodes and names; only the initializers that ``StepGraph.step_names``
lists point to other bytes. Values carry the names of the blocks that compute them, shortened:
``e3.c1`` is the output of ``encoder.3.conv1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Mapping

import numpy as np
import onnx_ir as ir

from ..architecture import Block, NetworkConfig, blocks
from ..checkpoint import Checkpoint
from ..ops import BINARY_CONV, DOMAIN, GROUP_NORM_SWISH, ONNX_OPSET, VERSION, Body, functions

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
               step_constants: Mapping[str, np.ndarray]) -> StepGraph:
    """Build the graph of one step.

    ``initializer(name, make)`` gives the initializer of that name, calling ``make`` for its value
    unless it has it already. ``step_constants``: ``X.threshold`` and ``X.rprelu`` of every BIConv
    X and ``B.time`` of every residual block B.
    """
    return _Builder(checkpoint, initializer, step_constants).build()


class _Builder(Body):
    def __init__(self, checkpoint: Checkpoint, initializer: Initializer,
                 step_constants: Mapping[str, np.ndarray]) -> None:
        super().__init__()
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

    def step(self, name: str, as_map: bool = False) -> ir.Value:
        key = short(name)
        if key not in self.initializers:
            self.step_names.append(key)
        value = self.step_constants[name]
        return self.init(key, lambda: value.reshape(1, -1, 1, 1) if as_map else value)

    def integers(self, name: str, *values: int) -> ir.Value:
        """Shapes and slice bounds: inside the graph, because shape inference needs their values
        and does not read external data."""
        if name not in self.initializers:
            tensor = ir.tensor(np.array(values, np.int64), name=name)
            self.initializers[name] = ir.Value(name=name, shape=tensor.shape, const_value=tensor,
                                               type=ir.TensorType(tensor.dtype))
        return self.initializers[name]

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
                x = self.convolution(x, block.name, name)
            elif block.kind == "head":
                x = self.norm_swish(x, f"{block.name}.norm")
                x = self.convolution(x, f"{block.name}.conv", "prediction")
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
        h = self.norm_swish(x, f"{block.name}.norm1")
        if block.binary:
            h = self.biconv(h, f"{block.name}.conv1", time=f"{block.name}.time")
        else:
            h = self.convolution(h, f"{block.name}.conv1", f"{name}.c1")
            h = self.op("Add", h, self.step(f"{block.name}.time", as_map=True), name=f"{name}.t")
        h = self.norm_swish(h, f"{block.name}.norm2")
        if block.binary:
            h = self.biconv(h, f"{block.name}.conv2")
        else:
            h = self.convolution(h, f"{block.name}.conv2", f"{name}.c2")
        x = self.op("Add", h, x, name=name)
        return self.attention(x, block) if block.attention else x

    def down(self, x: ir.Value, block: Block) -> ir.Value:
        """CP-Down: a BIConv on each half of the channels, their sum, PixelUnshuffle(2)."""
        name, half = short(block.name), block.channels // 2
        parts = []
        for index, (start, stop) in enumerate(((0, half), (half, block.channels)), 1):
            part = self.slice_channels(x, f"{name}.x{index}", start, stop)
            parts.append(self.biconv(part, f"{block.name}.conv{index}"))
        y = self.op("Add", *parts, name=f"{name}.sum")
        # ONNX SpaceToDepth puts the position before the channel; torch puts it after, so the
        # channels are one's and the position another axis's: swap them.
        y = self.op("SpaceToDepth", y, blocksize=2, name=f"{name}.s2d")
        shape = self.op("Shape", y, name=f"{name}.shape")
        y = self.op("Reshape", y, self.op(
            "Concat", self.integers(f"unshuffle{half}", 0, 4, half),
            self.op("Slice", shape, self.integers("two", 2), self.integers("four", 4),
                    name=f"{name}.hw"), axis=0, name=f"{name}.split"), name=f"{name}.r")
        y = self.op("Transpose", y, perm=[0, 2, 1, 3, 4], name=f"{name}.p")
        return self.op("Reshape", y, shape, name=name)

    def up(self, x: ir.Value, block: Block) -> ir.Value:
        """CP-Up: two BIConvs on the same map, concatenated, PixelShuffle(2)."""
        name = short(block.name)
        both = [self.biconv(x, f"{block.name}.conv{half}") for half in (1, 2)]
        y = self.op("Concat", *both, axis=1, name=f"{name}.cat")
        return self.op("DepthToSpace", y, blocksize=2, mode="CRD", name=name)

    def fusion(self, x: ir.Value, skip: ir.Value, block: Block) -> ir.Value:
        """CS-Fusion: odd channels of one map beside even ones of the other, and the reverse."""
        name = short(block.name)
        parts = []
        for half in (1, 2):
            pieces = [self.slice_channels(value, f"{name}.{label}{half}", start, block.channels, 2)
                      for value, label, start in ((x, "x", 2 - half), (skip, "s", half - 1))]
            mixed = self.op("Concat", *pieces, axis=1, name=f"{name}.f{half}")
            conv = f"{block.name}.conv{half}"
            parts.append(self.biconv(mixed, conv) if block.binary
                         else self.convolution(mixed, conv, f"{name}.c{half}", kernel=1))
        return self.op("Add", *parts, name=name)

    def attention(self, x: ir.Value, block: Block) -> ir.Value:
        """Single-head self-attention over all positions, scale 1/sqrt(C), with a shortcut."""
        name, channels = f"{short(block.name)}.a", block.channels
        long = f"{block.name}.attention"
        normal = self.op("InstanceNormalization", self.op(
            "Reshape", x, self.integers("groups_shape", 0, self.config.norm_groups, -1),
            name=f"{name}.g"), self.init("ones", lambda: np.ones(self.config.norm_groups, "f4")),
            self.init("zeros", lambda: np.zeros(self.config.norm_groups, "f4")),
            epsilon=1e-5, name=f"{name}.i")
        shape = self.op("Shape", x, name=f"{name}.shape")
        normal = self.op("Reshape", normal, shape, name=f"{name}.r")
        for kind, part in (("Mul", "weight"), ("Add", "bias")):
            full = f"{long}.norm.{part}"
            vector = self.init(short(full), lambda full=full:
                               self.checkpoint.state[full].reshape(1, -1, 1, 1))
            normal = self.op(kind, normal, vector, name=f"{name}.{kind.lower()}")
        qkv = self.op("Conv", normal, self.parameter(f"{long}.qkv.weight"), kernel_shape=[1, 1],
                      name=f"{name}.qkv")
        qkv = self.op("Reshape", qkv, self.integers("flat_map", 0, 0, -1), name=f"{name}.flat")
        q, k, v = (self.slice_channels(qkv, f"{name}.{part}", i * channels, (i + 1) * channels)
                   for i, part in enumerate("qkv"))
        q = self.op("Mul", q, self.init(f"scale{channels}", lambda: np.array(
            1 / math.sqrt(channels), "f4")), name=f"{name}.qs")
        scores = self.op("MatMul", self.op("Transpose", q, perm=[0, 2, 1], name=f"{name}.qt"), k,
                         name=f"{name}.qk")
        scores = self.op("Softmax", scores, axis=-1, name=f"{name}.map")
        mixed = self.op("MatMul", v, self.op("Transpose", scores, perm=[0, 2, 1],
                                             name=f"{name}.mt"), name=f"{name}.mix")
        mixed = self.op("Reshape", mixed, shape, name=f"{name}.o")
        out = self.convolution(mixed, f"{long}.out", f"{name}.out", kernel=1)
        return self.op("Add", out, x, name=name)

    # -- layers ---------------------------------------------------------------------------------
    def biconv(self, x: ir.Value, name: str, time: str | None = None) -> ir.Value:
        """BinaryConv with its own input as shortcut, and the step's vector where there is one."""
        key = short(name)
        weight = self.checkpoint.binary[f"{name}.weight"]
        return self.op(
            BINARY_CONV, x, self.init(f"{key}.words", lambda: weight.words),
            self.init(f"{key}.alpha", lambda: weight.alpha), self.step(f"{name}.threshold"),
            self.step(f"{name}.rprelu"), x,
            self.step(time) if time else self.init("none", lambda: np.zeros(1, "f4")),
            domain=DOMAIN, name=key, label=key, plugin_namespace=DOMAIN,
            plugin_version=str(VERSION))

    def norm_swish(self, x: ir.Value, name: str) -> ir.Value:
        key = short(name)
        return self.op(GROUP_NORM_SWISH, x, self.parameter(f"{name}.weight"),
                       self.parameter(f"{name}.bias"), domain=DOMAIN, name=key, label=key,
                       groups=self.config.norm_groups)

    def convolution(self, x: ir.Value, name: str, output: str, kernel: int = 3) -> ir.Value:
        return self.op("Conv", x, self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias"),
                       kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, name=output,
                       label=short(name))

    def slice_channels(self, x: ir.Value, name: str, start: int, stop: int,
                       stride: int = 1) -> ir.Value:
        inputs = [self.integers(f"i{value}", value) for value in (start, stop, 1, stride)]
        return self.op("Slice", x, *inputs, name=name)


def _image(name: str, channels: int) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(["N", channels, "H", "W"]),
                    type=ir.TensorType(ir.DataType.FLOAT))
