"""How engines compute in float32, and the constants of its rounding; see ``rounding``."""

from __future__ import annotations

from dataclasses import dataclass

from .winograd import POINTS

__all__ = ["AVERAGE", "Arithmetic", "CUDNN", "EXP", "MARGIN", "NORM", "PACKED", "STOCK", "SWISH",
           "SWISH_SLOPE", "TINY", "UNIT", "UNITS", "WINOGRAD", "gamma"]

UNIT = 2.0 ** -24
UNITS = {"bfloat16": 2.0 ** -8, "float16": 2.0 ** -11}  # of shorter types
TINY = 1e-36
MARGIN = 1.01
# Roundings in units of u, of functions that are not sums. exp is within 2 units in the last place
# (engines/float/vec.h), which is 4 u. ONNX Runtime's Sigmoid has an error of up to 3 u that is not
# relative to its value; with the factor's multiplication Swish has 5 u |x|, and 1 for safety.
EXP, SWISH = 4, 6
SWISH_SLOPE = 1.1  # its derivative is at most 1.0999
# After their sums GroupNorm and an average are a few operations each: a square root, a division,
# products with scale and mean, and sums with the bias.
NORM, AVERAGE = 8, 2
# Winograd's roundings that are not per channel: the weight 1, its product 1, each of two axes of
# the input's transform 6 and of the output's 6 (constants are rounded too).
WINOGRAD = 26


@dataclass(frozen=True)
class Arithmetic:
    """How an engine computes.

    winograd  whether 3x3 convolutions may use Winograd's F(4x4, 3x3), unless in groups
    points    at 0, these with either sign, and infinity; of several pairs any may be used
    direct    whether they may also be sums of products
    factor    unit roundoff of the type that factors of float products may be rounded to, or 0
    lanes     number of float32 sums that add the terms of a mean side by side
    block     number of terms of a mean that these add before they are added in float64; None: all
    softplus  error of log(1 + exp(x)) that is not relative to its value
    """

    winograd: bool
    factor: float = 0.0
    lanes: int = 32
    block: int | None = 4096
    points: tuple[tuple[float, float], ...] = (POINTS,)
    direct: bool = False
    softplus: float = 0.0

    def mean_roundings(self, count: int) -> int:
        """Number of roundings on a term's way into a mean of ``count`` terms."""
        return -(-min(count, self.block or count) // self.lanes) + self.lanes


# The op library's norm.cpp, and Eigen's sums in ONNX Runtime: two vectors of four floats.
PACKED = Arithmetic(winograd=True)
STOCK = Arithmetic(winograd=False, lanes=8, block=None, softplus=2 * UNIT)
# cuDNN chooses between algorithms; Winograd's usual points are from Lavin and Gray (arXiv
# 1509.09308). Its transforms of Fourier are not covered.
CUDNN = Arithmetic(winograd=True, lanes=8, block=None, points=(POINTS, (1.0, 2.0)), direct=True,
                   softplus=2 * UNIT)


def gamma(n: float) -> float:
    """The bound of n roundings, relative."""
    return n * UNIT / (1 - n * UNIT)
