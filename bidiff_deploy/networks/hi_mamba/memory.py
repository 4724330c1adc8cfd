"""Peak memory of Hi-Mamba, estimated from its widths, for choosing tiles.

Measured with the default options on two threads: 45 MiB for an output of 256x256 pixels, 170 MiB
for 512x512, where this returns 73 and 221; with the standard operators 56 MiB for 256x256, 89 here.
"""

from __future__ import annotations

from .architecture import COLORS, HiMambaConfig

_FLOAT = 4
_FIXED = 24 << 20  # scratch of the kernels, independent of the image size
_INNER_MAPS, _MAPS = 8, 5  # of inner and of other channels, alive or lost between chunks of memory
_STATES = 4  # of all channels, as the standard operators store them between steps
_IMAGES = 3  # of the output's size


def image_bytes(config: HiMambaConfig, height: int, width: int, *, stock: bool = False) -> int:
    """Peak bytes of one run whose output is one image of ``height`` x ``width``; ``stock``: with
    ONNX Runtime's standard operators."""
    pixels = height * width
    planes = (_INNER_MAPS + (_STATES if stock else 0)) * config.inner + _MAPS * config.channels
    return _FIXED + int(_FLOAT * pixels * (planes / config.scale ** 2 + _IMAGES * COLORS))
