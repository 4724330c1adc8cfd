"""What a network costs: parameters and multiply-accumulates, as they are and as the paper counts.

The one place where anything is counted. Everything is derived from ``architecture``; what a bundle
really holds is read from its graphs by ``inspect_bundle`` and held against this.

The paper counts a binary parameter as 1/32 and a binary operation as 1/64 of a float one, and a
multiply-accumulate as one operation. Of the published network that gives its 4.58 M parameters
exactly. Its 36.67 G operations at 3x256x256 come out 1.2 % lower here, 36.24 G: convolutions and
attention's products are counted, and what the paper adds to them it does not say (without
attention the gap is 4.1 %).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .architecture import Block, NetworkConfig, blocks, parameters
from ...errors import UsageError

PAPER_PARAMETER_BITS = 32  # a binary parameter is counted as 1 / this
PAPER_OPERATION_BITS = 64  # a binary multiply-accumulate is counted as 1 / this
MAX_SIDE = 1 << 20  # of an image that is counted for
PRODUCTS = ("scores", "mixed")  # of an attention: query by key, and map by value


@dataclass(frozen=True)
class Layer:
    """One convolution or attention product of a step, in order of execution.

    name          its parameters are ``name.weight`` and so on; a product has none. Both
                  convolutions of a full-precision CS-Fusion, CP-Down or CP-Up are one, of twice as
                  many channels in or (CP-Up) out, under the block's name
    block         what it belongs to
    binary        whether it is a BIConv
    shape         of its weights, (Cout, Cin, k, k); empty for a product
    height, width of its output map
    macs          multiply-accumulates for one image; border taps count like all others
    """

    name: str
    block: Block
    binary: bool
    shape: tuple[int, ...]
    height: int
    width: int
    macs: int

    @property
    def product(self) -> bool:
        """Whether it multiplies two activations, as attention does."""
        return not self.shape


@dataclass(frozen=True)
class Count:
    """Parameters of a network, and multiply-accumulates of one step for one image.

    height, width      of the image
    layers             every convolution and attention product
    parameters         numbers that training fits, TaR and TaA of all groups among them
    binary_parameters  of those, the ones of which only the sign and a mean are used
    time_macs          of the time path, which export folds into constants: none at run time
    """

    height: int
    width: int
    layers: tuple[Layer, ...]
    parameters: int
    binary_parameters: int
    time_macs: int

    @property
    def float_parameters(self) -> int:
        return self.parameters - self.binary_parameters

    @property
    def binary_macs(self) -> int:
        """Of the BIConvs."""
        return sum(layer.macs for layer in self.layers if layer.binary)

    @property
    def float_macs(self) -> int:
        """Of the convolutions that are full precision in the network."""
        return sum(layer.macs for layer in self.layers if not (layer.binary or layer.product))

    @property
    def attention_macs(self) -> int:
        """Of attention's two products; its 1x1 convolutions are among ``float_macs``."""
        return sum(layer.macs for layer in self.layers if layer.product)

    @property
    def paper_parameters(self) -> float:
        """Parameters as the paper counts them: float + binary / 32."""
        return paper_parameters(self.float_parameters, self.binary_parameters)

    @property
    def paper_operations(self) -> float:
        """Operations as the paper counts them: float and attention + binary / 64."""
        return paper_operations(self.float_macs + self.attention_macs, self.binary_macs)


def paper_parameters(full: int, binary: int) -> float:
    return full + binary / PAPER_PARAMETER_BITS


def paper_operations(full: int, binary: int) -> float:
    return full + binary / PAPER_OPERATION_BITS


def count(config: NetworkConfig, height: int, width: int) -> Count:
    """Count one step of ``config`` for one image of ``height`` x ``width`` pixels.

    Raises UsageError for a size that the network can not run at.
    """
    multiple = config.size_multiple
    for side in (height, width):
        if not 1 <= side <= MAX_SIDE or side % multiple:
            raise UsageError(f"size {height}x{width} does not fit: both must be multiples of "
                             f"{multiple}, from {multiple} to {MAX_SIDE}")
    every = parameters(config)
    sizes = {name: math.prod(parameter.shape) for name, parameter in every.items()}
    layers: list[Layer] = []
    for block in blocks(config):
        rows, columns = height >> block.level, width >> block.level
        positions = rows * columns
        for name, parameter in every.items():
            if len(parameter.shape) != 4 or not name.startswith(f"{block.name}."):
                continue
            name, shape = name.removesuffix(".weight"), parameter.shape
            if block.kind in ("fusion", "down", "up") and not block.binary:
                if name.endswith(".conv2"):
                    continue
                outputs, inputs = (2, 1) if block.kind == "up" else (1, 2)
                name, shape = block.name, (outputs * shape[0], inputs * shape[1], *shape[2:])
            if name.endswith(".attention.out"):
                macs = block.channels * positions * positions
                layers += [Layer(f"{block.name}.attention.{product}", block, False, (), rows,
                                 columns, macs) for product in PRODUCTS]
            layers.append(Layer(name, block, parameter.binary, shape, rows, columns,
                                math.prod(shape) * positions))
    return Count(
        height, width, tuple(layers), sum(sizes.values()),
        sum(size for name, size in sizes.items() if every[name].binary),
        sum(size for name, size in sizes.items() if len(every[name].shape) == 2
            and not every[name].grouped))
