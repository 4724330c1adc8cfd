"""The binarizers that a network can have: names, parameters, and whether fused operators fit.

A binarizer is the function of each binary layer. sum is the integer convolution of signs,
zero-padded after the sign; alpha is the mean magnitude of an output channel's weights. The sign of
0 is +1 for all of them, because one bit has no third value.

    bnn        sum(x) + x: no scale
               (Hubara et al., NeurIPS 2016, arXiv 1602.02830)
    dorefa     a conv([x >= 1/2], sign W) + x, of bits 0 and 1; a = mean |W| of the whole layer
               (Zhou et al., arXiv 1606.06160). Options ``weight_bits`` and ``activation_bits``, k
               and m from 1 to 4: conv(q(x), W_k) + x, q(x) = clip(x, 0, 1) in 2^m steps, W_k = a
               sign W of 1 bit, else 2 q(tanh W / (2 max |tanh W|) + 1/2) - 1 in 2^k steps, as sums
               of bit planes (``bit_planes``)
    irnet      2^s sum(x) + x, signs of W - mean W of each filter; s = round(log2 |W'|), |W'| the
               mean magnitude of W' = (W - mean W) / std W
               (Qin et al., CVPR 2020, arXiv 1909.10788)
    bi-diffsr  RPReLU_g(alpha sum(x + b_g)) + x, parameters by the group g of the time step
               (Chen et al., NeurIPS 2024, arXiv 2406.05723)
    reactnet   RPReLU(alpha sum(x + b) + x): RSign, shortcut, RPReLU
               (Liu et al., ECCV 2020, arXiv 2003.03488, figure 5)
    xnor       alpha K sum(x) + x, K the box mean of mean_c |x|
               (Rastegari et al., ECCV 2016, arXiv 1603.05279, equation 11)
    bbcu       x + RPReLU(alpha sum(k x + b)) / k, k the residual alignment
               (Xia et al., ICLR 2023, arXiv 2210.00405)
    dab        s alpha sum(x - t) + x, t = k mean_hw(x) + b, s = exp(a (mean |x - t| - 1)); the
               paper has one s per channel, which a sum of bits over channels cannot apply; here
               s is one per image
               (Yin et al., arXiv 2411.10346)
    none       no binary layer: plain convolutions with bias, without shortcut

The papers' BatchNorms are left out: the network has GroupNorm.

x is added where a layer has as many outputs as inputs. Otherwise (option ``shortcut``) the shortcut
is BiDense's channel-adaptive bypass, ``cfb``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ...errors import CheckpointError
from ...operators.sign_bits import BinaryWeight
from .weight_signs import (
    Array,
    balanced,
    balanced_latent,
    in_planes,
    latent_of_planes,
    of_one_scale,
    without_scale,
)

PUBLISHED = "bi-diffsr"
NONE = "none"
DOREFA = "dorefa"
DOREFA_LEVEL = 0.5  # activations from this on are 1; of several bits, have the largest bit
MAX_BITS = 4  # of a weight and of an activation
PLANES = ".planes."  # between a layer's name and the number of a binary convolution of several
IDENTITY, CFB = "identity", "cfb"  # shortcuts of binary layers
PER_INPUT, PER_CHANNEL, SINGLE = "per input channel", "per channel", "single"
_RPRELU = (("threshold", PER_INPUT), ("shift_in", PER_CHANNEL), ("slope", PER_CHANNEL),
           ("shift_out", PER_CHANNEL))


@dataclass(frozen=True)
class Binarizer:
    """The parameters of a binary layer besides its latent weights, and its form in a graph.

    name     in network options
    vectors  (name, PER_INPUT, PER_CHANNEL (of the output) or SINGLE) of each further parameter
    grouped  whether each group of time steps has its own
    fused    whether a layer is BinaryConv with its shortcut and RPReLU, so that it is exported in
             fused operators; otherwise as BinaryConv between standard operators
    pack     signs and scales of latent weights; its second argument names them in errors
    latent   latent weights of signs and scales, which ``pack`` maps to the same
    bits     of weights and activations; with more than one a layer is several binary convolutions
    """

    name: str
    vectors: tuple[tuple[str, str], ...] = ()
    grouped: bool = False
    fused: bool = False
    pack: Callable[[Array, str], BinaryWeight] = BinaryWeight.from_float
    latent: Callable[[BinaryWeight], Array] = BinaryWeight.to_float
    bits: tuple[int, int] = (1, 1)

    @property
    def key(self) -> str:
        """The name in keys of checkpoints, with the bits if there are several."""
        return self.name if self.bits == (1, 1) else "{}-w{}a{}".format(self.name, *self.bits)

    @property
    def products(self) -> int:
        """Binary convolutions of a layer."""
        return self.bits[0] * self.bits[1]

    def nodes(self, layer: str) -> list[str]:
        """Names of a layer's binary convolutions, in order of execution."""
        return [layer] if self.products == 1 else [f"{layer}{PLANES}{index}"
                                                   for index in range(self.products)]


BINARIZERS = {binarizer.name: binarizer for binarizer in (
    Binarizer(PUBLISHED, _RPRELU, grouped=True, fused=True),
    Binarizer("bnn", fused=True, pack=without_scale),
    Binarizer(DOREFA, pack=of_one_scale),
    Binarizer("irnet", fused=True, pack=balanced, latent=balanced_latent),
    Binarizer("reactnet", _RPRELU),
    Binarizer("xnor"),
    Binarizer("bbcu", _RPRELU, fused=True),
    Binarizer("dab", (("center", PER_INPUT), ("threshold", PER_INPUT),
                      ("sharpness", SINGLE))),
    Binarizer(NONE))}


# Beginnings of names of methods whose layers are no sums of single bits, and why.
_UNPACKED = {
    "dorefa-": "is not known: its bits are the options weight_bits and activation_bits of dorefa",
    "bidense": "has no packed form: its scale of each input channel cannot be applied to a count "
               "of bits (dab has one scale per image)"}


def find_binarizer(name: object, weight_bits: int = 1, activation_bits: int = 1) -> Binarizer:
    """The binarizer called ``name``, of so many bits. Raises CheckpointError for an unknown name,
    and for several bits of another binarizer than DOREFA."""
    found = BINARIZERS.get(name) if isinstance(name, str) else None
    if found is None:
        reason = next((reason for start, reason in _UNPACKED.items()
                       if isinstance(name, str) and name.startswith(start)), "is not known")
        raise CheckpointError(f"network option binarizer={name!r} {reason}; it is one of "
                              f"{', '.join(BINARIZERS)}")
    bits = weight_bits, activation_bits
    if bits == (1, 1):
        return found
    if found.name != DOREFA:
        raise CheckpointError(f"network options weight_bits={weight_bits} and activation_bits="
                              f"{activation_bits} need binarizer {DOREFA}: a layer of {name} "
                              "multiplies single bits")
    if weight_bits == 1:
        return replace(found, bits=bits)
    return replace(found, bits=bits, pack=partial(in_planes, bits=weight_bits),
                   latent=latent_of_planes)


def alignment_factor(alignment: float, channels: int) -> float:
    """BBCU's k for a layer of ``channels`` channels; ``alignment`` is k at 64 channels. k grows
    with the channels as the sums do (arXiv 2210.00405, section 3.2: 130 n / 64)."""
    return alignment * channels / 64


def cfb_groups(inputs: int, outputs: int) -> tuple[int, int, int]:
    """BiDense's channel-adaptive full-precision bypass of ``inputs`` -> ``outputs`` channels:
    (repeats, groups, size). The input is repeated; then ``size`` channels that are the mean of so
    many groups of that size each, and the mean of all channels after these, one channel. Without
    a remainder groups and size are 0.

    Source: arXiv 2411.10346, section 3.3, and its published code.
    """
    repeats, rest = divmod(outputs, inputs)
    return repeats, inputs // rest if rest else 0, max(0, rest - 1)
