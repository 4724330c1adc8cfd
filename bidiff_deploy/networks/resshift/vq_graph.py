"""The graphs of the VQ autoencoder: image -> latent, and latent -> nearest codes -> image.

``image`` is float32 (N, 3, H, W) in [-1, 1], ``latent`` (N, C, H / f, W / f); the sides of a latent
are multiples of ``SIDES``. The image that the decoder returns is not clipped.
"""

from __future__ import annotations

import math

import numpy as np

from ...operators.definitions import functions
from ...operators.names import DOMAIN, NORM_CONV
from ...operators.names import EPSILON as OPERATORS_EPSILON
from ...operators.value_names import short
from ..base import DECODER, ENCODER, StepGraph, Store, Weights
from .vq import BLOCKS, COLORS, EPSILON, PREFIX, VqConfig, VqLayer, layers
from .writer import GROUPS, Writer

__all__ = ["IMAGE", "LATENT_MAP", "build_part"]

_SCALED = math.sqrt(OPERATORS_EPSILON / EPSILON)
IMAGE, LATENT_MAP = "image", "latent"  # part of the bundle format


def build_part(weights: Weights, store: Store, part: str) -> StepGraph:
    """The graph of ENCODER or DECODER; ``store`` as in ``networks.base.Store``."""
    assert part in (ENCODER, DECODER)
    write, config = _VqWriter(weights, store), weights.config.autoencoder
    if part == ENCODER:
        write.sequence(IMAGE, config, False, LATENT_MAP)
        return write.finished(part, {IMAGE: COLORS}, LATENT_MAP, config.latent, functions(), "hw")
    write.sequence(write.quantised(LATENT_MAP), config, True, IMAGE)
    return write.finished(part, {LATENT_MAP: config.latent}, IMAGE, COLORS, functions(),
                          "hw")


class _VqWriter(Writer):
    def sequence(self, x: str, config: VqConfig, decoder: bool, output: str) -> None:
        """All layers of encoder or decoder; the last value is called ``output``."""
        write = {"conv": self.plain, "down": self.down, "up": self.up, "residual": self.residual,
                 "attention": self.attention, "head": self.head}
        for layer in layers(config, decoder):
            x = write[layer.kind](x, layer)
        self.nodes[-1].output[0] = output

    # -- layers -----------------------------------------------------------------------------------
    def plain(self, x: str, layer: VqLayer) -> str:
        return self.convolution(x, PREFIX + layer.name)

    def down(self, x: str, layer: VqLayer) -> str:
        """Half the size; padded on the right and at the bottom only."""
        return self.convolution(x, PREFIX + layer.name, stride=2, pads=(0, 0, 1, 1))

    def up(self, x: str, layer: VqLayer) -> str:
        name = PREFIX + layer.name
        return self.convolution(self.nearest_twice(x, f"{short(name)}/large"), name)

    def head(self, x: str, layer: VqLayer) -> str:
        norm = f"{PREFIX}{layer.name}.norm_out"
        active = self.silu(self.group_norm(x, norm, EPSILON), f"{short(norm)}/active")
        return self.convolution(active, f"{PREFIX}{layer.name}.conv_out")

    def residual(self, x: str, layer: VqLayer) -> str:
        """x + conv(swish(norm(conv(swish(norm(x)))))), as two ``NormConv``, whose epsilon is
        larger than the autoencoder's by ``_SCALED``^2: of a map times ``_SCALED`` it is the same.
        The map between the two is scaled by the first one's weights."""
        name = PREFIX + layer.name
        scaled = self.op("Mul", x, self.number(_SCALED), name=f"{short(name)}/scaled")
        y = self._norm_conv(scaled, f"{name}.norm1", f"{name}.conv1", _SCALED)
        if layer.cin != layer.cout:
            x = self.convolution(x, f"{name}.nin_shortcut")
        return self._norm_conv(y, f"{name}.norm2", f"{name}.conv2", skip=x)

    def _norm_conv(self, x: str, norm: str, conv: str, factor: float = 1.0,
                   skip: str = "") -> str:
        """A convolution of swish(norm(x)), times ``factor``, plus ``skip``."""
        none = self.initializer("none", np.zeros(1, np.float32))
        inputs = [self.parameter(f"{norm}.{part}") for part in ("weight", "bias")]
        inputs += [self.initializer(short(f"{conv}.{part}"),
                                    self.weights.state[f"{conv}.{part}"] * np.float32(factor))
                   for part in ("weight", "bias")]
        return self.op(NORM_CONV, x, *inputs, none, skip or none, domain=DOMAIN, groups=GROUPS,
                       compute="float32", name=short(conv), label=True)

    def attention(self, x: str, layer: VqLayer) -> str:
        """x + proj_out(attention of all positions), one head."""
        name, op = PREFIX + layer.name, self.op
        key = short(name)
        normal = self.group_norm(x, f"{name}.norm", EPSILON)
        flat = self.integers("positions", 0, 0, -1)
        q, k, v = (op("Reshape", self.convolution(normal, f"{name}.{part}"), flat,
                      name=f"{key}/{part}") for part in "qkv")
        q = op("Mul", q, self.number(layer.cin ** -0.5), name=f"{key}/q_scaled")
        q, v = (op("Transpose", value, perm=[0, 2, 1], name=f"{key}/{label}_rows")
                for label, value in (("q", q), ("v", v)))
        mixed = self._blocks(q, v, k, layer.cin, key)
        mixed = op("Transpose", mixed, perm=[0, 2, 1], name=f"{key}/mixed_turned")
        mixed = op("Reshape", mixed, op("Shape", x, name=f"{key}/shape"), name=f"{key}/mixed_map")
        return op("Add", x, self.convolution(mixed, f"{name}.proj_out"), name=key)

    def _blocks(self, q: str, v: str, k: str, channels: int, key: str) -> str:
        """softmax(q k) v, (N, positions, C), of q and v (N, positions, C) and k (N, C, positions),
        one block of positions after the other."""
        op, one = self.op, self.integers("one", 1)
        q = op("Reshape", q, self.integers(f"blocks_{channels}", 0, BLOCKS, -1, channels),
               name=f"{key}/q_blocks")
        k, v = (op("Unsqueeze", value, one, name=f"{key}/{label}_all")
                for label, value in (("k", k), ("v", v)))
        parts = []
        for index, block in enumerate(self.split(q, 1, *(f"{key}/q{i}" for i in range(BLOCKS)))):
            scores = op("MatMul", block, k, name=f"{key}/scores{index}")
            weights = op("Softmax", scores, axis=-1, name=f"{key}/weights{index}")
            parts.append(op("MatMul", weights, v, name=f"{key}/mixed{index}"))
        mixed = op("Concat", *parts, axis=1, name=f"{key}/mixed_blocks")
        return op("Reshape", mixed, self.integers(f"rows_{channels}", 0, -1, channels),
                  name=f"{key}/mixed")

    # -- the code book ----------------------------------------------------------------------------
    def quantised(self, latent: str) -> str:
        """The nearest code at each position, a map. Of |z|^2 + |e|^2 - 2 z e the first is the same
        for every code, so that the largest of z e - |e|^2 / 2 is taken, in one product."""
        op, name = self.op, f"{PREFIX}quantize"
        codes = self.weights.state[f"{name}.embedding.weight"]
        squares = (codes.astype(np.float64) ** 2).sum(axis=1)
        flat = op("Reshape", latent, self.integers("positions", 0, 0, -1), name=f"{name}/flat")
        rows = op("Transpose", flat, perm=[0, 2, 1], name=f"{name}/rows")
        products = op("MatMul", rows, self.initializer(f"{name}.codes", codes.T),
                      name=f"{name}/products")
        half = self.initializer(f"{name}.half_squares", (squares / 2).astype(np.float32))
        nearest = op("Sub", products, half, name=f"{name}/nearness")
        nearest = op("ArgMax", nearest, axis=2, keepdims=0, name=f"{name}/nearest")
        found = op("Gather", self.parameter(f"{name}.embedding.weight"), nearest, axis=0,
                   name=f"{name}/codes")
        found = op("Transpose", found, perm=[0, 2, 1], name=f"{name}/turned")
        return op("Reshape", found, op("Shape", latent, name=f"{name}/shape"), name=name)
