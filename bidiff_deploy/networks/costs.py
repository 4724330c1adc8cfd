"""Counts of a network's parameters and multiply-accumulates, plain and in the paper's units.

Each network fills ``Count`` from its list of layers; ``proof.inspect`` reads the same numbers from
a bundle's graphs and compares.

The BI-DiffSR paper counts a binary parameter as 1/32 and a binary operation as 1/64 of a float one,
and a multiply-accumulate as one operation.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Count", "Layer", "MAX_SIDE", "PAPER_OPERATION_BITS", "PAPER_PARAMETER_BITS",
           "paper_operations", "paper_parameters"]

PAPER_PARAMETER_BITS = 32  # a binary parameter is counted as 1 / this
PAPER_OPERATION_BITS = 64  # a binary multiply-accumulate is counted as 1 / this
MAX_SIDE = 1 << 20  # pixels, of an image whose costs are counted


@dataclass(frozen=True)
class Layer:
    """One convolution or attention product of a network's run, in order of execution.

    name          prefix of its parameters (``NAME.weight``); a product has none. The two
                  convolutions of a full-precision CS-Fusion, CP-Down or CP-Up count as one, with
                  twice as many input or (CP-Up) output channels, under the block's name
    binary        whether it is a BIConv
    shape         of its weights, (Cout, Cin, k, k); empty for a product
    height, width of its output map
    macs          multiply-accumulates for one image, taps outside the border included; of a binary
                  layer of several bits, those of all its bit planes
    reason        why a convolution is full precision, or what one of several bits is made of
    """

    name: str
    binary: bool
    shape: tuple[int, ...]
    height: int
    width: int
    macs: int
    reason: str = ""

    @property
    def product(self) -> bool:
        """Whether it multiplies two activations, as attention does."""
        return not self.shape


@dataclass(frozen=True)
class Count:
    """Parameters of a network, and multiply-accumulates of one step for one image.

    height, width      of the image
    layers             every convolution and attention product
    parameters         number of trained parameters, including TaR and TaA of all groups
    binary_parameters  number of those of which only the sign and a mean magnitude are used
    time_macs          of the time path, which export folds into constants: none at run time
    weight_bits        of each binary parameter
    """

    height: int
    width: int
    layers: tuple[Layer, ...]
    parameters: int
    binary_parameters: int
    time_macs: int
    weight_bits: int = 1

    @property
    def float_parameters(self) -> int:
        return self.parameters - self.binary_parameters

    @property
    def binary_macs(self) -> int:
        """Multiply-accumulates of the BIConvs."""
        return sum(layer.macs for layer in self.layers if layer.binary)

    @property
    def float_macs(self) -> int:
        """Multiply-accumulates of the full-precision convolutions."""
        return sum(layer.macs for layer in self.layers if not (layer.binary or layer.product))

    @property
    def attention_macs(self) -> int:
        """Multiply-accumulates of attention's two products; ``float_macs`` includes its 1x1
        convolutions."""
        return sum(layer.macs for layer in self.layers if layer.product)

    @property
    def paper_parameters(self) -> float:
        """Parameters as the paper counts them: float + binary / 32, a bit of several as one."""
        return paper_parameters(self.float_parameters, self.binary_parameters * self.weight_bits)

    @property
    def paper_operations(self) -> float:
        """Operations as the paper counts them: float and attention + binary / 64."""
        return paper_operations(self.float_macs + self.attention_macs, self.binary_macs)


def paper_parameters(full: int, binary: int) -> float:
    """Parameters as the paper counts them, of ``full`` float and ``binary`` ones."""
    return full + binary / PAPER_PARAMETER_BITS


def paper_operations(full: int, binary: int) -> float:
    """Operations as the paper counts them, of ``full`` float and ``binary`` ones."""
    return full + binary / PAPER_OPERATION_BITS
