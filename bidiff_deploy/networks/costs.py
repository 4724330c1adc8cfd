"""What a network costs: parameters and multiply-accumulates, as they are and as the paper counts.

Networks fill ``Count`` from their own list of layers; what a bundle really holds is read from its
graphs by ``proof.inspect`` and compared with this.

The BI-DiffSR paper counts a binary parameter as 1/32 and a binary operation as 1/64 of a float one,
and a multiply-accumulate as one operation.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Count", "Layer", "MAX_SIDE", "PAPER_OPERATION_BITS", "PAPER_PARAMETER_BITS",
           "paper_operations", "paper_parameters"]

PAPER_PARAMETER_BITS = 32  # a binary parameter is counted as 1 / this
PAPER_OPERATION_BITS = 64  # a binary multiply-accumulate is counted as 1 / this
MAX_SIDE = 1 << 20  # of an image that is counted for


@dataclass(frozen=True)
class Layer:
    """One convolution or attention product of a network's run, in order of execution.

    name          its parameters are ``name.weight`` and so on; a product has none. Both
                  convolutions of a full-precision CS-Fusion, CP-Down or CP-Up are one, of twice as
                  many channels in or (CP-Up) out, under the block's name
    binary        whether it is a BIConv
    shape         of its weights, (Cout, Cin, k, k); empty for a product
    height, width of its output map
    macs          multiply-accumulates for one image; border taps count like all others
    reason        why a convolution is full precision, in words
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
