"""Peak memory and time of a latent network, estimated, for choosing tiles.

The decoder's highest resolution and the attention in the middle of the autoencoder need most; the
network itself runs at a latent's size. Three sessions keep what each of their arenas has taken:
with the published DiT-SR and autoencoder 291 MiB at 256x256 (estimated 524) and 1,927 MiB at
512x512 (2,048), on two threads. The weights, of which ONNX Runtime keeps packed copies, are 1.2 GB
before.
"""

from __future__ import annotations

from .vq import BLOCKS, VqConfig

__all__ = ["peak_bytes", "relative_work"]

_FLOAT = 4
_FIXED = 64 << 20
_WIDE_MAPS = 6.0  # maps of the decoder's width at the highest resolution, alive or lost in arenas
_SCORES = 3  # blocks of attention's weights


def peak_bytes(config: VqConfig, height: int, width: int) -> int:
    """Peak bytes of the decoder for one image of ``height`` x ``width``, which are more than the
    encoder's and the network's."""
    pixels = height * width
    positions = pixels // config.factor ** 2
    maps = _WIDE_MAPS * config.channels * config.mult[0] * pixels
    return _FIXED + int(_FLOAT * (maps + _SCORES * positions ** 2 / BLOCKS
                                  + 2 * config.codes * positions))


def relative_work(height: int, width: int) -> float:
    """Time of one image: convolutions and, of the published autoencoder, 7 % attention at
    256x256."""
    area = height * width / 65536
    return area + 0.07 * area * area
