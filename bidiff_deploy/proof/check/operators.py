"""Each fused operator against the operators that it fuses.

In a run of the bundle's graph each fused operator gets maps and returns another. The operators of
its definition must return the same from these maps: where it is binary every bit, because it sums
integers and does the same float32 operations in the same order. Operators with float products sum
in another order; ``forced`` holds them to the bound of their rounding, and this comparison to a
signal-to-noise ratio that any order reaches. Attention's kernel keeps its softmax to itself, and a
bound over all of it lets the worst errors of query and key add up in an exponent: 54 to 73 dB of
its result in the smallest network, 21 dB in the published one, where the kernel has 146 to 152. So
its definition is held to bounds, value by value, and the kernel to the definition by this ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...operators.names import BINARY_DOWN, BINARY_FUSION, BINARY_UP, NORM_BINARY_CONV
from .bundle_layers import Array, BundleLayers
from .statistics import decibel, snr

BINARY = (NORM_BINARY_CONV, BINARY_FUSION, BINARY_DOWN, BINARY_UP)
EXACT = math.inf
# A direct float32 convolution leaves 120 to 140 dB; Winograd's transforms round about 10 times as
# much, which takes 20 dB. A bfloat16 has 8 significant bits: a factor is off by up to 2^-8 of
# itself, by 2^-10.6 in root mean square over both factors, which is 60 dB if a sum's terms are no
# larger than the sum; Winograd's differences and cancelling terms take some 20 dB of that.
FLOAT = 100.0
BOUNDS = {"bfloat16": 36.0}  # by the type to which an operator may round factors; else FLOAT


@dataclass(frozen=True)
class OperatorCheck:
    """One fused operator at one time step.

    operator    its output in the graph ("e3.h", "prediction")
    kind        NormConv, BinaryUp ...
    snr, bound  dB, against the operators that it fuses
    """

    operator: str
    kind: str
    timestep: int
    snr: float
    bound: float

    @property
    def exact(self) -> bool:
        """Whether every bit must be equal."""
        return self.bound == EXACT

    @property
    def passed(self) -> bool:
        return self.snr >= self.bound

    @property
    def reason(self) -> str:
        if self.passed:
            return "every bit is equal" if self.exact else f"at least {decibel(self.bound)}"
        wanted = ("but must be equal to the bit" if self.exact
                  else f"below {decibel(self.bound, 3)}")
        return (f"{self.kind} alone has {decibel(self.snr, 3)}, {wanted}, against the operators "
                "that it fuses")


def check_operators(layers: BundleLayers, run: Mapping[str, Array], inside: Mapping[str, Array],
                    timestep: int) -> list[OperatorCheck]:
    """Check every fused operator at one step; ``run`` and ``inside`` of ``EngineValues``."""
    checks = []
    for operator in layers.operators:
        bound = (EXACT if operator.kind in BINARY
                 else BOUNDS.get(operator.compute or "float32", FLOAT))
        checks.append(OperatorCheck(
            operator.output, operator.kind, timestep,
            snr(inside[operator.output], run[operator.output]), bound))
    return checks
