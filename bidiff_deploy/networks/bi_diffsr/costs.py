"""Counts BI-DiffSR's convolutions, attention products and parameters.

A layer of k-bit weights and m-bit activations is k m binary ones, and a weight of k bits k binary
ones, as DoReFa-Net counts them (arXiv 1606.06160, section 2.1).

For the published network this gives exactly the paper's 4.58 M parameters. The paper's 36.67 G
operations at 3x256x256 are 36.24 G here, 1.2 % fewer: only convolutions and attention's products
are counted, and the paper does not say what else it counts (without attention the gap is 4.1 %).
"""

from __future__ import annotations

import math

from ...errors import UsageError
from ..costs import MAX_SIDE, Count, Layer
from .architecture import Block, blocks, parameters
from .binarizers import NONE
from .config import NetworkConfig

__all__ = ["count"]

PRODUCTS = ("scores", "mixed")  # of attention: query times key, and map times value


def count(config: NetworkConfig, height: int, width: int) -> Count:
    """Costs of one step of ``config`` for one image of ``height`` x ``width`` pixels.

    Raises UsageError for a size that the network cannot run at.
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
                layers += [Layer(f"{block.name}.attention.{product}", False, (), rows, columns,
                                 macs) for product in PRODUCTS]
            products = config.binary_layers.products if parameter.binary else 1
            layers.append(Layer(name, parameter.binary, shape, rows, columns,
                                math.prod(shape) * positions * products,
                                _reason(config, block, name, parameter.binary)))
    return Count(
        height, width, tuple(layers), sum(sizes.values()),
        sum(size for name, size in sizes.items() if every[name].binary),
        sum(size for name, size in sizes.items() if len(every[name].shape) == 2
            and not every[name].grouped), config.weight_bits)


def _reason(config: NetworkConfig, block: Block, name: str, binary: bool) -> str:
    """Why a convolution of this block is full precision, or is several binary ones."""
    if binary:
        kind = config.binary_layers
        return "" if kind.products == 1 else (
            "weights of {} and activations of {} bits".format(*kind.bits)
            + f": {kind.products} products of bit planes")
    if block.kind == "stem":
        return "first convolution, its input is an image and not signs"
    if block.kind == "head":
        return "last convolution, its output is an image and not signs"
    if ".attention." in name:
        return "convolution of attention, never binary in this network"
    if config.binarizer == NONE:
        return "the network has no binary layers"
    return (f"the decoder's level {block.level} "
            f"({config.image_size >> block.level}) is in fp_res")
