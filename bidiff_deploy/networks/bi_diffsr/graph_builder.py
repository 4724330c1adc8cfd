"""The builder that the block writers of step graphs share: initializers by name, and layers.

A block writer is a function ``(builder, block, *maps)`` that writes the nodes of a block and
returns the name of its output. ``fused_blocks``, ``plain_blocks`` and ``float_blocks`` each have a
table of them by the block's kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...operators.names import ATTENTION, DOMAIN
from ...operators.node_writer import NodeWriter
from ...operators.value_names import short
from ..base import Store, Weights
from .architecture import Block
from .config import NetworkConfig
from .step_constants import layer_constants

BlockWriters = Mapping[str, Callable[..., str]]


class Builder:
    """Writes one step's graph; see ``graph.build_step``."""

    def __init__(self, weights: Weights, store: Store,
                 step_constants: Mapping[str, np.ndarray], compute: str) -> None:
        self.write = NodeWriter(store)
        self.compute = compute
        self.weights = weights
        self.config: NetworkConfig = weights.config
        self.step_constants = step_constants
        self.step_names: list[str] = []

    # -- initializers ---------------------------------------------------------------------------
    def parameter(self, name: str) -> str:
        return self.write.initializer(short(name), self.weights.state[name])

    def step(self, name: str) -> str:
        """An initializer that differs from step to step."""
        self.step_names.append(short(name))
        return self.write.initializer(short(name), self.step_constants[name])

    def none(self) -> str:
        """An absent vector or map: one zero, because a function's inputs are all required."""
        return self.write.initializer("none", np.zeros(1, np.float32))

    def norm(self, name: str) -> list[str]:
        return [self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")]

    weight_and_bias = norm

    def branches(self, block: Block) -> list[str]:
        return [value for name, _, _ in block.convolutions for value in self.branch(name)]

    def branch(self, name: str) -> list[str]:
        """Names of words, alpha, threshold and rprelu of one binary layer."""
        key, weight = short(name), self.weights.binary[f"{name}.weight"]
        words = self.write.initializer(f"{key}.words", weight.words)
        if self.config.binary_layers.grouped:
            return [words, self.write.initializer(f"{key}.alpha", weight.alpha),
                    self.step(f"{name}.threshold"), self.step(f"{name}.rprelu")]
        return [words, *(self.write.initializer(f"{key}.{part}", value) for part, value
                         in layer_constants(self.weights, name).items())]

    # -- nodes ----------------------------------------------------------------------------------
    def ours(self, op: str, name: str, *inputs: str, **attributes: object) -> str:
        return self.write.op(op, *inputs, domain=DOMAIN, name=name, label=True, **attributes)

    def attention(self, x: str, block: Block) -> str:
        long = f"{block.name}.attention"
        return self.ours(ATTENTION, short(long), x, *self.norm(f"{long}.norm"),
                         self.parameter(f"{long}.qkv.weight"), *self.weight_and_bias(f"{long}.out"),
                         groups=self.config.norm_groups, compute=self.compute)


def residual(half: Callable[..., str], b: Builder, block: Block, x: str) -> str:
    """A residual block; ``half(b, block, index, output, x, time, skip)`` writes each half."""
    name = short(block.name)
    time = b.step(f"{block.name}.time")
    h = half(b, block, 1, f"{name}.h", x, time, b.none())
    x = half(b, block, 2, name, h, b.none(), x)
    return b.attention(x, block) if block.attention else x
