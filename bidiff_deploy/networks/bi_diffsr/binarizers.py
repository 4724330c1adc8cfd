"""The binarizers that a network can have: names, parameters, and whether fused operators fit.

A binarizer is the function of each binary layer, C -> C channels. sum is the integer convolution of
signs, zero-padded after the sign; alpha is the mean magnitude of an output channel's weights. The
sign of 0 is +1 for all of them, because one bit has no third value.

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
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import CheckpointError

PUBLISHED = "bi-diffsr"
NONE = "none"
PER_CHANNEL, SINGLE = "per channel", "single"
_RPRELU = (("threshold", PER_CHANNEL), ("shift_in", PER_CHANNEL), ("slope", PER_CHANNEL),
           ("shift_out", PER_CHANNEL))


@dataclass(frozen=True)
class Binarizer:
    """The parameters of a binary layer besides its latent weights, and its form in a graph.

    name     in network options
    vectors  (name, PER_CHANNEL or SINGLE) of each further parameter
    grouped  whether each group of time steps has its own
    fused    whether a layer is BinaryConv with its shortcut and RPReLU, so that it is exported in
             fused operators; otherwise as BinaryConv between standard operators
    """

    name: str
    vectors: tuple[tuple[str, str], ...] = ()
    grouped: bool = False
    fused: bool = False


BINARIZERS = {binarizer.name: binarizer for binarizer in (
    Binarizer(PUBLISHED, _RPRELU, grouped=True, fused=True),
    Binarizer("reactnet", _RPRELU),
    Binarizer("xnor"),
    Binarizer("bbcu", _RPRELU, fused=True),
    Binarizer("dab", (("center", PER_CHANNEL), ("threshold", PER_CHANNEL),
                      ("sharpness", SINGLE))),
    Binarizer(NONE))}


def find_binarizer(name: object) -> Binarizer:
    """The binarizer called ``name``. Raises CheckpointError for an unknown name."""
    found = BINARIZERS.get(name) if isinstance(name, str) else None
    if found is None:
        raise CheckpointError(f"network option binarizer={name!r} is not known; it is one of "
                              f"{', '.join(BINARIZERS)}")
    return found


def alignment_factor(alignment: float, channels: int) -> float:
    """BBCU's k for a layer of ``channels`` channels; ``alignment`` is k at 64 channels. k grows
    with the channels as the sums do (arXiv 2210.00405, section 3.2: 130 n / 64)."""
    return alignment * channels / 64
