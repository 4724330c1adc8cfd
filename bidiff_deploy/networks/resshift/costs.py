"""Counts of the VQ autoencoder's layers, and what counts of all latent networks share.

For the published autoencoder at 256x256 they give 155.4 and 318.1 G multiply-accumulates of
convolutions, and 17.2 G of attention on either side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ...errors import UsageError
from ..base import DECODER, Parameter
from ..costs import MAX_SIDE, Count, Layer
from .vq import BLOCKS, PREFIX, SIDES, VqConfig, VqLayer, layers, parameters

__all__ = ["check_size", "counted", "part_count"]


def check_size(height: int, width: int, multiple: int) -> None:
    """Raises UsageError for an input that a network with sides in multiples of ``multiple`` cannot
    run at."""
    for side in (height, width):
        if not 1 <= side <= MAX_SIDE or side % multiple:
            raise UsageError(f"size {height}x{width} does not fit: both must be multiples of "
                             f"{multiple}, from {multiple} to {MAX_SIDE}")


def counted(height: int, width: int, layers: Sequence[Layer],
            every: Mapping[str, Parameter], time_macs: int = 0) -> Count:
    """The ``Count`` of ``layers`` and of the parameters ``every``."""
    sizes = {name: math.prod(parameter.shape) for name, parameter in every.items()}
    return Count(height, width, tuple(layers), sum(sizes.values()),
                 sum(size for name, size in sizes.items() if every[name].binary), time_macs)


def part_count(config: VqConfig, part: str, height: int, width: int) -> Count:
    """Costs of ENCODER or DECODER at an input of ``height`` x ``width``."""
    decoder = part == DECODER
    check_size(height, width, SIDES * (1 if decoder else config.factor))
    image = [side * (config.factor if decoder else 1) for side in (height, width)]
    found: list[Layer] = []
    if decoder:
        found.append(Layer(f"{PREFIX}quantize", False, (config.latent, config.codes), height, width,
                           config.latent * config.codes * height * width, "the nearest code"))
    for layer in layers(config, decoder):
        found += _layers(layer, image[0] >> layer.level, image[1] >> layer.level)
    of_decoder = (f"{PREFIX}decoder.", f"{PREFIX}post_quant_conv.", f"{PREFIX}quantize.")
    return counted(height, width, found, {
        name: parameter for name, parameter in parameters(config)
        if name.startswith(of_decoder) == decoder})


def _layers(layer: VqLayer, height: int, width: int) -> Iterator[Layer]:
    name = PREFIX + layer.name
    why = "the autoencoder is full precision"

    def convolution(name: str, cin: int, cout: int, k: int, scale: float = 1) -> Layer:
        rows, columns = int(height * scale), int(width * scale)
        shape = (cout, cin, k, k)
        return Layer(name, False, shape, rows, columns, math.prod(shape) * rows * columns, why)

    if layer.kind == "residual":
        yield convolution(f"{name}.conv1", layer.cin, layer.cout, 3)
        yield convolution(f"{name}.conv2", layer.cout, layer.cout, 3)
        if layer.cin != layer.cout:
            yield convolution(f"{name}.nin_shortcut", layer.cin, layer.cout, 1)
    elif layer.kind == "attention":
        for part in ("q", "k", "v"):
            yield convolution(f"{name}.{part}", layer.cin, layer.cin, 1)
        positions = height * width
        for index in range(BLOCKS):
            for product in ("scores", "mixed"):
                yield Layer(f"{name}.{product}{index}", False, (), height, width,
                            layer.cin * positions * positions // BLOCKS)
        yield convolution(f"{name}.proj_out", layer.cin, layer.cin, 1)
    elif layer.kind == "head":
        yield convolution(f"{name}.conv_out", layer.cin, layer.cout, 3)
    else:
        yield convolution(name, layer.cin, layer.cout, layer.kernel,
                          {"down": 0.5, "up": 2}.get(layer.kind, 1))
