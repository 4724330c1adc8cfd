"""The shapes that a TensorRT plan is built for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...networks.base import NOISE_PREDICTOR
from ..noise_predictor import PADDING_MULTIPLE

if TYPE_CHECKING:
    from ...bundle.record import Bundle

__all__ = ["Profile", "Shape", "check_profile", "default_profile", "unit_of"]

_DEFAULT_SIDES = (64, 256, 512)
_MAX_VALUES = (1 << 31) - 1  # of one tensor in TensorRT

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Profile:
    """The shapes (N, H, W) that a plan runs; its kernels were chosen at ``optimum``."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    @property
    def static(self) -> bool:
        """Whether the plan runs one shape only."""
        return self.minimum == self.maximum

    @property
    def label(self) -> str:
        """``1x256x256``, or ``1x64x64-1x256x256-4x512x512``: a part of the plan's file name."""
        shapes = (self.optimum,) if self.static else (self.minimum, self.optimum, self.maximum)
        return "-".join("x".join(map(str, shape)) for shape in shapes)

    @property
    def area(self) -> int:
        """Pixels of the largest batch, which activation memory grows with."""
        return math.prod(self.maximum)

    def contains(self, shape: Shape) -> bool:
        """Whether the plan runs a batch of that shape."""
        return all(low <= side <= high for low, side, high in
                   zip(self.minimum, shape, self.maximum, strict=True))


def default_profile(bundle: Bundle, batch: int = 1) -> Profile:
    """64x64 to 512x512, best at 256x256, rounded up to sides that the network takes."""
    unit = unit_of(bundle)
    low, middle, high = ((batch, size, size) for size in (
        -(-side // unit) * unit for side in _DEFAULT_SIDES))
    return Profile(low, middle, high)


def check_profile(profile: Profile, bundle: Bundle) -> None:
    """Raise UsageError for shapes that a run never has, and for shapes out of order."""
    unit, values = unit_of(bundle), _map_values(bundle)
    for shape in (profile.minimum, profile.optimum, profile.maximum):
        if any(side < 1 or side % unit for side in shape[1:]) or shape[0] < 1:
            raise UsageError(f"{_text(shape)} (batch x height x width) cannot be run: height and "
                             f"width must be multiples of {unit}, to which inputs are padded")
        if math.prod(shape) * values > _MAX_VALUES:
            raise UsageError(f"{_text(shape)} (batch x height x width) with {values} values per "
                             f"pixel has more than {_MAX_VALUES}, TensorRT's limit for a tensor; "
                             "choose a smaller shape, and larger images are run in tiles")
    for name, low, high in (("--min", profile.minimum, profile.optimum),
                            ("--opt", profile.optimum, profile.maximum)):
        if any(a > b for a, b in zip(low, high)):
            raise UsageError(f"{name} {_text(low)} is larger than {_text(high)}; give --min, "
                             "--opt and --max in ascending order")


def unit_of(bundle: Bundle) -> int:
    """Heights and widths of a run's input are multiples of this: loops pad their images to it."""
    padded = PADDING_MULTIPLE if bundle.network.kind == NOISE_PREDICTOR else 1
    return math.lcm(padded, bundle.network.size_multiple(bundle.config))


def _map_values(bundle: Bundle) -> int:
    """Values of the largest map of a run, per pixel of its input."""
    network, config = bundle.network, bundle.config
    height, width = network.usual_size(config)
    return max(layer.shape[0] * layer.height * layer.width
               for layer in network.count(config, height, width).layers if not layer.product
               ) // (height * width)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
