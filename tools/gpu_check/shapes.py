"""The operators that are checked and timed, and their least cost: bytes and operations.

Maps are NCHW. Bytes are those that cross the GPU's memory if every map is read once and written
once and nothing stays in a cache; the operator's workspace is not counted, so this is a lower
bound. An operation is a multiplication or an addition of one bit or number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bidiff_deploy.networks.bi_diffsr.architecture import blocks
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.operators.sign_bits import WORD_BITS


@dataclass(frozen=True)
class Layer:
    """An operator on maps of ``channels`` and side ``size``; a step has ``count`` of them."""

    operator: str
    channels: int
    k: int
    size: int
    count: int = 0

    @property
    def name(self) -> str:
        return f"{self.operator} {self.channels}@{self.size} k{self.k}"

    @property
    def branches(self) -> int:
        """The number of its binary convolutions."""
        return 2 if self.operator in ("BinaryFusion", "BinaryDown", "BinaryUp") else 1

    @property
    def conv_channels(self) -> int:
        """Input channels of each of them, equal to the output channels."""
        return self.channels // 2 if self.operator == "BinaryDown" else self.channels

    def operations(self, batch: int) -> int:
        """Operations of its convolutions; border taps count like all others."""
        return (2 * self.branches * batch * self.size ** 2 * self.conv_channels ** 2 * self.k ** 2)

    def bytes_moved(self, batch: int, element_bytes: int) -> int:
        """Bytes of the maps that it must read and write, and of its packed weights."""
        area = batch * self.size ** 2
        # NormBinaryConv reads its input first for the statistics and again for the sums; the second
        # half of a block also adds the block's input, which is not counted.
        maps = {"BinaryConv": 2, "NormBinaryConv": 3, "BinaryFusion": 3, "BinaryDown": 1.5,
                "BinaryUp": 3}[self.operator]
        words = -(-self.conv_channels // WORD_BITS)
        weights = 4 * self.branches * self.conv_channels * self.k ** 2 * words
        return int(maps * area * self.channels) * element_bytes + weights


def single_convolutions(config: NetworkConfig) -> list[Layer]:
    """Every shape of binary convolution in a step, as operator BinaryConv with all its inputs."""
    found: Counter[tuple[int, int, int]] = Counter()
    for layer in network_operators(config):
        size = layer.size
        found[layer.conv_channels, layer.k, size] += layer.count * layer.branches
    return [Layer("BinaryConv", *shape, count) for shape, count in
            sorted(found.items(), key=lambda item: (-item[0][2], item[0][0], -item[0][1]))]


def network_operators(config: NetworkConfig) -> list[Layer]:
    """The binary operators in the graph of a step, the largest maps first."""
    names = {"residual": "NormBinaryConv", "fusion": "BinaryFusion", "down": "BinaryDown",
             "up": "BinaryUp"}
    found: Counter[tuple[str, int, int, int]] = Counter()
    for block in blocks(config):
        if block.binary and block.kind in names:
            size = config.image_size >> block.level
            key = names[block.kind], block.channels, block.kernel_size, size
            found[key] += 2 if block.kind == "residual" else 1
    return [Layer(*key, count) for key, count in
            sorted(found.items(), key=lambda item: (-item[0][3], item[0]))]


def parse_layers(text: str) -> list[Layer]:
    """The BinaryConv layers in ``32@256k3,512@32k1``. Raises ValueError."""
    found = []
    for entry in text.split(","):
        channels, _, rest = entry.partition("@")
        size, _, k = rest.partition("k")
        found.append(Layer("BinaryConv", int(channels), int(k), int(size)))
        if found[-1].k not in (1, 3) or min(found[-1].channels, found[-1].size) < 1:
            raise ValueError(f"{entry} is not a layer; write it like 64@256k3")
    return found


@dataclass(frozen=True)
class Case:
    """One random problem of the parity check. ``channels`` and ``out_channels`` differ only for
    BinaryConv; ``groups`` divides the channels."""

    operator: str
    dtype: str
    batch: int
    channels: int
    out_channels: int
    k: int
    height: int
    width: int
    groups: int
    seed: int

    @property
    def name(self) -> str:
        return (f"{self.operator} {self.dtype} N{self.batch} C{self.channels} "
                f"O{self.out_channels} k{self.k} {self.height}x{self.width} seed {self.seed}")


def random_cases(operators: Sequence[str], count: int, seed: int, largest: int) -> list[Case]:
    """``count`` problems of each operator: any channels, heights and widths up to ``largest``,
    sizes near the kernels' tiles more often; both element types, both kernel sizes."""
    random = np.random.default_rng(seed)
    near = [size for size in (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128)
            if size <= largest]
    found = []
    for operator in operators:
        for index in range(count):
            def side() -> int:
                return int(random.choice(near) if random.random() < 0.6
                           else random.integers(1, largest + 1))
            channels, height, width = (side() for _ in range(3))
            even = operator in ("BinaryFusion", "BinaryDown", "BinaryUp")
            channels += channels % 2 if even else 0
            if operator == "BinaryDown":
                height, width = height + height % 2, width + width % 2
            divisors = [value for value in (1, 2, 3, 4, 8, 32) if channels % value == 0]
            found.append(Case(
                operator, "float16" if index % 2 else "float32", int(random.integers(1, 4)),
                channels, side() if operator == "BinaryConv" else channels,
                1 if index // 2 % 3 == 2 else 3, height, width, int(random.choice(divisors)),
                int(random.integers(1 << 31))))
    return found
