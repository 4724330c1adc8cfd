"""Peak memory of BBCU-M, estimated from its width, for choosing tiles.

The worst moment is the last upsampler: its repeated input, its convolution, and the shuffled map.
Measured with 32 and 64 channels and x2, x3, x4 at outputs of 256 to 1600 pixels per side on two
threads: with 64 channels 158 to 266 floats per output pixel, because the chunks of ONNX Runtime's
arena double, and 337 with the standard operators. The factors are for the worst of these.
"""

from __future__ import annotations

from .architecture import COLORS, BbcuConfig

_FLOAT = 4
_FIXED = 24 << 20  # scratch of the kernels, independent of the image size
_LARGE_MAPS = 4  # maps of the output's size, alive or lost between chunks of memory
_STOCK_MAPS = 5.25  # standard operators: signs and every sum are separate maps
_IMAGES = 4  # of the output's size: shortcut, sums, the result


def image_bytes(config: BbcuConfig, height: int, width: int, *, stock: bool = False) -> int:
    """Peak bytes of one run whose output is one image of ``height`` x ``width``; ``stock``: with
    ONNX Runtime's standard operators."""
    planes = (_STOCK_MAPS if stock else _LARGE_MAPS) * config.channels + _IMAGES * COLORS
    return _FIXED + int(_FLOAT * planes * height * width)
