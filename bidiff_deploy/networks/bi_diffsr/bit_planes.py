"""DoReFa-Net's layers of several bits as binary convolutions, one for each pair of bit planes.

With m bits an activation is a / M, M = 2^m - 1, a = round(M clip(x, 0, 1)), half up. Its code a is
the sum of 2^j b_j, b_j 0 or 1. With k bits a weight is the sum of alpha_i s_i, s_i +1 or -1
(``weight_signs.in_planes``). As b_j is half of a sign t_j and 1,

    conv(a / M, W) = sum over i, j of [2^j / (2 M)] alpha_i conv(t_j, s_i)  +  conv(1, W) / 2

The convolutions of signs are BinaryConv's, padded with zeros as that of a / M is. The last term is
a convolution of a map of ones, which differs at borders alone (``step_constants.offset_kernel``).

t_j is the sign of a residue r_j, found as in successive approximation: the most significant is that
of x - 1/2, and r_(j-1) is r_j moved by -2^(j-1) / M where t_j is +1, else by +2^(j-1) / M. Each
move is one float32 addition, so that all engines find the same code. Beyond 0 and 1 all t_j agree,
which is the clip.

Source: Zhou et al., DoReFa-Net (arXiv 1606.06160), sections 2.1 to 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .binarizers import DOREFA_LEVEL


@dataclass(frozen=True)
class Plane:
    """One binary convolution: the bit of the weights, that of the activations, and its alpha over
    the scale of that bit of the weights."""

    weight: int
    activation: int
    share: float


@dataclass(frozen=True)
class Move:
    """From r_j to r_(j-1): ``below`` is added, and where r_j >= ``at`` also ``step``. Numbers of
    float32."""

    at: float
    below: float
    step: float

    @property
    def above(self) -> float:
        """The sum of both, rounded."""
        return float(np.float32(self.below) + np.float32(self.step))


def bit_planes(weight_bits: int, activation_bits: int) -> list[Plane]:
    """Every pair of planes in order of execution, those of the most significant bit of the
    activations first."""
    most = (1 << activation_bits) - 1
    return [Plane(i, j, 2.0 ** j / (2 * most)) for j in reversed(range(activation_bits))
            for i in range(weight_bits)]


def move(plane: int, activation_bits: int) -> Move:
    """The move from the residue of bit ``plane``, 1 or more, to that of the next smaller bit. The
    most significant bit's residue is x, compared with DOREFA_LEVEL."""
    size = 2.0 ** (plane - 1) / ((1 << activation_bits) - 1)
    at = DOREFA_LEVEL if plane == activation_bits - 1 else 0.0
    return Move(at, float(np.float32(size - at)), float(np.float32(-2 * size)))
