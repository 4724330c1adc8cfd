"""Peak memory of a feed-forward network, estimated from its widths; it only chooses tiles.

The worst moment is the last upsampler: its repeated input, what is convolved, what is shuffled.
Measured with 32 and 64 channels and x2, x3, x4 at 256 to 1600 pixels of output a side on two
threads: of 64 channels 158 to 266 floats a pixel of output, because the chunks of ONNX Runtime's
arena double, and 337 by the standard operators. The factors are for the worst of these.
"""

from __future__ import annotations

from .architecture import COLORS, BbcuConfig

_FLOAT = 4
_FIXED = 24 << 20  # scratch of the kernels that does not grow with the picture
_LARGE_MAPS = 4  # maps of the output's size, alive or lost between chunks of memory
_STOCK_MAPS = 5.25  # where signs and every sum are maps of their own
_PICTURES = 4  # of the output's size: shortcut, sums, the result


def image_bytes(config: BbcuConfig, height: int, width: int, *, stock: bool = False) -> int:
    """Peak bytes of running one picture whose output is ``height`` x ``width``; ``stock``: by ONNX
    Runtime's standard operators."""
    planes = (_STOCK_MAPS if stock else _LARGE_MAPS) * config.channels + _PICTURES * COLORS
    return _FIXED + int(_FLOAT * planes * height * width)
