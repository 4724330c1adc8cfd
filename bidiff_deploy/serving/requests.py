"""What a request may hold: checked once, before anything is computed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ImageError, UsageError

__all__ = ["Cancelled", "Work", "read_request"]

_MOST_SEEDS = (1 << 63) - 1  # of int64, which has no larger seed


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Work:
    """A request that may be computed.

    images     uint8 (N, H, W, 3), RGB
    seeds      one for each image
    steps      how many timesteps to visit; None: all of the bundle's
    cancelled  whether nobody waits for it any more
    """

    images: np.ndarray
    seeds: tuple[int, ...]
    steps: int | None
    cancelled: Callable[[], bool] = lambda: False


def read_request(image: np.ndarray | None, seed: np.ndarray | None = None,
                 steps: np.ndarray | None = None, *, max_pixels: int, max_batch: int,
                 cancelled: Callable[[], bool] = lambda: False) -> Work:
    """The Work that the tensors of a request ask for.

    image       uint8 (N, H, W, 3), N from 1 to ``max_batch``, H * W from 1 to ``max_pixels``
    seed        whole numbers from 0, one for each image or one for all; None: 0
    steps       a whole number from 1, the same for all images; None: all of the bundle's

    Raises ImageError or UsageError for anything else.
    """
    if image is None:
        raise UsageError("the request has no input `image`; give uint8 (N, height, width, 3)")
    if image.dtype != np.uint8:
        raise ImageError(f"input `image` is of type {image.dtype}; give uint8")
    if image.ndim != 4 or image.shape[3] != 3 or 0 in image.shape:
        raise ImageError(f"input `image` has shape {list(image.shape)}; give [N, height, width, 3]"
                         ", RGB, with none of them 0")
    count, height, width, _ = image.shape
    if count > max_batch:
        raise UsageError(f"the request has {count} images; this model takes {max_batch} at once")
    if height * width > max_pixels:
        raise ImageError(f"input `image` has {width}x{height} pixels; this model takes "
                         f"{max_pixels} at most, cut it or raise the model's max_pixels")
    seeds = _whole("seed", seed, 0, _MOST_SEEDS) or (0,)
    if len(seeds) not in (1, count):
        raise UsageError(f"input `seed` has {len(seeds)} values for {count} images; give one for "
                         "each, or one for all")
    wanted = set(_whole("steps", steps, 1, 1 << 31))
    if len(wanted) > 1:
        raise UsageError("input `steps` differs between the images of one request; send them as "
                         "requests of their own")
    return Work(image, seeds if len(seeds) == count else seeds * count,
                wanted.pop() if wanted else None, cancelled)


def _whole(name: str, values: np.ndarray | None, least: int, most: int) -> tuple[int, ...]:
    if values is None:
        return ()
    if values.dtype.kind not in "iu" or not values.size:
        raise UsageError(f"input `{name}` has type {values.dtype} and shape {list(values.shape)}; "
                         "give int64 [N, 1]")
    found = tuple(int(value) for value in values.reshape(-1))
    for value in found:
        if not least <= value <= most:
            raise UsageError(f"input `{name}` is {value}; it must be from {least} to {most}")
    return found
