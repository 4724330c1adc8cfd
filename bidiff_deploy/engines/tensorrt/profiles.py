"""Which shapes a TensorRT plan is built for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...errors import UsageError
from ..noise_predictor import PADDING_MULTIPLE
from .sidecar import Profile

if TYPE_CHECKING:
    from ...bundle.manifest import Bundle

__all__ = ["check_profile", "default_profile"]

_DEFAULT_SIDES = (64, 256, 512)
_MAX_VALUES = (1 << 31) - 1  # of one of TensorRT's tensors


def default_profile(bundle: Bundle, batch: int = 1) -> Profile:
    """64x64 to 512x512, best at 256x256, rounded up to what the network takes."""
    unit = _unit(bundle)
    low, middle, high = ((batch, size, size) for size in (
        -(-side // unit) * unit for side in _DEFAULT_SIDES))
    return Profile(low, middle, high)


def check_profile(profile: Profile, bundle: Bundle) -> None:
    """Raises UsageError for shapes that the loop never has, or that are out of order."""
    unit, channels = _unit(bundle), bundle.config.inner_channel
    for shape in (profile.minimum, profile.optimum, profile.maximum):
        if any(side < 1 or side % unit for side in shape[1:]) or shape[0] < 1:
            raise UsageError(f"{_text(shape)} (batch x height x width) can not be run: height and "
                             f"width must be multiples of {unit}, which inputs are padded to")
        if math.prod(shape) * channels > _MAX_VALUES:
            raise UsageError(f"{_text(shape)} (batch x height x width) with {channels} channels is "
                             f"more than the {_MAX_VALUES} values that a map of TensorRT's can "
                             "have; choose a smaller shape, which larger images are run in tiles "
                             "of")
    for name, low, high in (("--min", profile.minimum, profile.optimum),
                            ("--opt", profile.optimum, profile.maximum)):
        if any(a > b for a, b in zip(low, high)):
            raise UsageError(f"{name} {_text(low)} is larger than {_text(high)}; give --min, "
                             "--opt and --max in ascending order")


def _unit(bundle: Bundle) -> int:
    """What heights and widths of the loop are multiples of."""
    return math.lcm(PADDING_MULTIPLE, bundle.config.size_multiple)


def _text(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
