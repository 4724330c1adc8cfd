"""Peak memory of BBCU-M, estimated from its width, for choosing tiles.

The worst moment is the last upsampler: its repeated input, its convolution, and the shuffled map.
Measured with 32 and 64 channels and x2, x3, x4 at outputs of 256 to 1600 pixels per side on two
threads: with 64 channels 158 to 266 floats per output pixel, because the chunks of ONNX Runtime's
arena double, and 337 with the standard operators. The factors are for the worst of these.
"""

from __future__ import annotations

from .architecture import COLORS, BbcuConfig, layers

_FLOAT = 4
_FIXED = 24 << 20  # scratch of the kernels, independent of the image size
_LARGE_MAPS = 4  # maps of the output's size, alive or lost between chunks of memory
_STOCK_MAPS = 5.25  # standard operators: signs and every sum are separate maps
_GPU_FIXED = 256 << 20  # weights, kernels and captured graphs; not measured
_GPU_MAPS = 4  # of the widest maps' size: signs, sums and two shortcuts
_IMAGES = 4  # of the output's size: shortcut, sums, the result


def gpu_bytes(config: BbcuConfig, height: int, width: int, *, half: bool) -> int:
    """The same on a GPU; not fitted to measurements. With float16 maps (``half``) the widest maps
    have half the size, and the images are float32."""
    rows = [layer.factor for layer in layers(config)]
    share = max(rows) ** 2 / config.scale ** 2  # of the largest maps' size in the output's
    maps = _GPU_MAPS * config.channels * share * (0.5 if half else 1.0)
    return _GPU_FIXED + int(_FLOAT * (maps + _IMAGES * COLORS) * height * width)


def image_bytes(config: BbcuConfig, height: int, width: int, *, stock: bool = False) -> int:
    """Peak bytes of one run whose output is one image of ``height`` x ``width``; ``stock``: with
    ONNX Runtime's standard operators."""
    planes = (_STOCK_MAPS if stock else _LARGE_MAPS) * config.channels + _IMAGES * COLORS
    height, width = (side + 2 * config.border * config.scale for side in (height, width))
    return _FIXED + int(_FLOAT * planes * height * width)
