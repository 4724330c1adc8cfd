"""Estimates of the bytes and the work of one step in an open engine, for choosing tiles.

Memory is that of the values alive at the worst moment of the network, times what ONNX Runtime's
arena loses between chunks of different sizes. This is for sessions without memory patterns: with
them the arena takes a second block of the same size at the second step. The factors are fitted to
networks of 32 to 64 channels and 2 to 4 levels at 256x256 to 1024x1024 on two threads;
``tests/images/test_tiling.py`` contains the measurements.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from .architecture import blocks
from .binarizers import NONE
from .config import NetworkConfig
from .costs import count

__all__ = ["cuda_step_bytes", "step_bytes", "step_work"]

_FLOAT = 4
_ARENA = 1.2  # bytes of the arena per byte that is alive
_FIXED = 24 << 20  # scratch of the kernels, independent of the image size
_NETWORK_IMAGES = 16  # planes of input, output and their concatenation, alive with the network
_LOOP_IMAGES = 16  # planes of the sampling loop around it
_STOCK_MAPS = 2  # maps of the widest level that fused operators save
_PLAIN_MAPS = 1  # of those, maps that binary layers between standard operators need
_PLANE_MAPS = 3, 2  # further ones for each bit of activations and, up to two, of weights but one
_ATTENTION_MAPS = 2  # scores and their softmax, if the operators are not fused
_CUDA_FIXED = 512 << 20  # scratch of cuDNN and cuBLAS, captured graphs; not measured
_BINARY_SPEED = 16  # approximate binary multiply-accumulates in the time of one in float32


def step_bytes(config: NetworkConfig, height: int, width: int, *, stock: bool = False) -> int:
    """Peak bytes of one step and the loop around it for one image of ``height`` x ``width``.

    ``stock``: with ONNX Runtime's standard operators, which store attention's whole map.
    """
    pixels = height * width
    plain = not config.binary_layers.fused and config.binarizer != NONE
    extra = _STOCK_MAPS if stock else _PLAIN_MAPS if plain else 0
    alive = _alive(config) + config.channels(0) * max(extra, _maps_of_planes(config))
    total = _ARENA * (alive + _NETWORK_IMAGES) * pixels + _LOOP_IMAGES * pixels
    if stock:
        total += _ATTENTION_MAPS * _largest_attention(config, pixels)
    return _FIXED + int(_FLOAT * total)


def cuda_step_bytes(config: NetworkConfig, height: int, width: int, *, half: bool) -> int:
    """The same on a GPU, where full-precision operators are not fused and the loop's images are on
    the device too; not fitted to measurements.

    ``half``: maps are float16, except the input and output of attention's softmax.
    """
    pixels = height * width
    extra = max(_STOCK_MAPS, _maps_of_planes(config))
    maps = _ARENA * (_alive(config) + extra * config.channels(0)) * (0.5 if half else 1.0)
    total = (maps + _ARENA * _NETWORK_IMAGES + _LOOP_IMAGES) * pixels
    total += _ATTENTION_MAPS * _largest_attention(config, pixels)
    return _CUDA_FIXED + int(_FLOAT * total)


def _maps_of_planes(config: NetworkConfig) -> int:
    """Maps of the widest level that layers of several bits need; 0 for those of one bit."""
    if config.binary_layers.products == 1:
        return 0
    of_activations, of_weights = _PLANE_MAPS
    return (_STOCK_MAPS + of_activations * (config.activation_bits - 1)
            + of_weights * min(2, config.weight_bits - 1))


def _largest_attention(config: NetworkConfig, pixels: int) -> int:
    return max((pixels >> 2 * block.level) ** 2 for block in blocks(config) if block.attention)


@functools.lru_cache(maxsize=16)
def _alive(config: NetworkConfig) -> float:
    """Floats per pixel of the output alive at the worst moment."""
    return max(_moments(config))


def _moments(config: NetworkConfig) -> Iterator[float]:
    """Floats per pixel alive within each block: skips, the block's input, its own maps."""
    kept: list[float] = []
    current = float(config.in_channel)
    for block in blocks(config):
        plane = config.channels(block.level) / 4 ** block.level
        if block.kind == "fusion":
            # Its second input is the last kept; a single layer reads a copy of both.
            yield sum(kept) + current + (3 if block.single else 1) * plane
            kept.pop()
            current = plane
            continue
        # The input is the last kept if the block before pushed it.
        held = sum(kept) + (0 if kept and kept[-1] == current and block.name.startswith("enc")
                            else current)
        if block.kind == "residual":
            yield held + 2 * plane + (0 if block.binary else plane)
            if block.attention:
                yield held + 4 * plane  # query, key and value besides the input
            current = plane
        elif block.kind == "head":
            yield held + plane
        else:
            current = {"stem": plane, "down": plane / 2, "up": 2 * plane}[block.kind]
            yield held + current
        if block.pushes_skip:
            kept.append(current)


@functools.lru_cache(maxsize=256)
def step_work(config: NetworkConfig, height: int, width: int) -> float:
    """Time of one step, in multiply-accumulates of float32."""
    counted = count(config, height, width)
    return counted.float_macs + counted.attention_macs + counted.binary_macs / _BINARY_SPEED
