"""Peak memory of a feed-forward network, estimated from its widths; it only chooses tiles."""

from __future__ import annotations

from .network import COLORS, BbcuConfig

_FLOAT = 4
_FIXED = 24 << 20  # scratch of the kernels that does not grow with the picture
_LARGE_MAPS = 3  # of the last upsampler: the repeated input, the convolved one, the shuffled one
_PICTURES = 8  # planes of three colours at the output's size: shortcut, sums, the result


def picture_bytes(config: BbcuConfig, height: int, width: int) -> int:
    """Peak bytes of running one picture whose output is ``height`` x ``width``."""
    planes = _LARGE_MAPS * config.channels + _PICTURES * COLORS
    return _FIXED + _FLOAT * planes * height * width
