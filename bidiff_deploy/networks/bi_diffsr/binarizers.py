"""The binarizers a network can have: their names, their parameters, how they are exported.

A binarizer is what stands in each binary layer of the network, C -> C channels. sum is the integer
convolution of signs, zero-padded after the sign; alpha the mean magnitude of an output channel's
weights. A sign is +1 from 0 on, for all of them: one bit has no third value.

    bi-diffsr  RPReLU_g(alpha sum(x + b_g)) + x, parameters by the group g of the time step
               (Chen et al., NeurIPS 2024, arXiv 2406.05723)
    reactnet   RPReLU(alpha sum(x + b) + x): RSign, shortcut, RPReLU
               (Liu et al., ECCV 2020, arXiv 2003.03488, figure 5)
    xnor       alpha K sum(x) + x, K the box mean of mean_c |x|
               (Rastegari et al., ECCV 2016, arXiv 1603.05279, equation 11)
    bbcu       x + RPReLU(alpha sum(k x + b)) / k, k the residual alignment
               (Xia et al., ICLR 2023, arXiv 2210.00405)
    dab        s alpha sum(x - t) + x, t = k mean_hw(x) + b, s = exp(a (mean |x - t| - 1)); the
               paper has one s a channel, which no popcount can follow: here it is one a picture
               (Yin et al., arXiv 2411.10346)
    none       no binary layer: plain convolutions with bias, without shortcut

None of the papers' BatchNorms is there: the network normalises by groups.
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
    """What a binary layer has besides its latent weights.

    name     as network options spell it
    vectors  (name, PER_CHANNEL or SINGLE) of each further parameter
    grouped  whether those exist once for each group of time steps
    fused    whether a layer is BinaryConv with its shortcut and RPReLU, so that the fused binary
             operators fit; otherwise BinaryConv stands between standard operators
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
    """The binarizer of a network option. Raises CheckpointError for a name that is none."""
    found = BINARIZERS.get(name) if isinstance(name, str) else None
    if found is None:
        raise CheckpointError(f"network option binarizer={name!r} is not known; it is one of "
                              f"{', '.join(BINARIZERS)}")
    return found


def alignment_factor(alignment: float, channels: int) -> float:
    """BBCU's k of a layer of so many channels: ``alignment`` is that of 64 channels, and k grows
    with the channels as the sums do (arXiv 2210.00405, section 3.2: 130 n / 64)."""
    return alignment * channels / 64
