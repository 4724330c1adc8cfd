"""Checks a request once, before anything is computed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..checks import whole_number
from ..errors import ImageError, UsageError

__all__ = ["Cancelled", "Work", "read_request"]

_MAX_SEED = (1 << 63) - 1  # of int64


class Cancelled(Exception):
    """The client cancelled the request."""


@dataclass(frozen=True)
class Work:
    """A valid request.

    images     uint8 (N, H, W, 3), RGB
    seeds      one for each image
    steps      number of timesteps to visit; None: all of the bundle's
    cancelled  returns whether the client has cancelled the request
    """

    images: np.ndarray
    seeds: tuple[int, ...]
    steps: int | None
    cancelled: Callable[[], bool] = lambda: False


def read_request(image: np.ndarray | None, seed: np.ndarray | None = None,
                 steps: np.ndarray | None = None, *, max_pixels: int, max_batch: int,
                 cancelled: Callable[[], bool] = lambda: False) -> Work:
    """The Work for the tensors of a request.

    image       uint8 (N, H, W, 3), N from 1 to ``max_batch``, H * W from 1 to ``max_pixels``
    seed        whole numbers from 0, one for each image or one for all; None: 0
    steps       a whole number from 1, the same for all images; None: all of the bundle's

    Raises ImageError or UsageError for other tensors.
    """
    if image is None:
        raise UsageError("the request has no input `image`; give uint8 (N, height, width, 3)")
    if image.dtype != np.uint8:
        raise ImageError(f"input `image` is of type {image.dtype}; give uint8")
    if image.ndim != 4 or image.shape[3] != 3 or 0 in image.shape:
        raise ImageError(f"input `image` has shape {list(image.shape)}; give RGB of shape [N, "
                         "height, width, 3] with no size 0")
    count, height, width, _ = image.shape
    if count > max_batch:
        raise UsageError(f"the request has {count} images; this model accepts at most {max_batch}")
    if height * width > max_pixels:
        raise ImageError(f"input `image` has {width}x{height} pixels; this model accepts at most "
                         f"{max_pixels}, crop it or raise the model's max_pixels")
    seeds = _whole_numbers("seed", seed, 0, _MAX_SEED) or (0,)
    if len(seeds) not in (1, count):
        raise UsageError(f"input `seed` has {len(seeds)} values for {count} images; give one for "
                         "each, or one for all")
    wanted = set(_whole_numbers("steps", steps, 1, 1 << 31))
    if len(wanted) > 1:
        raise UsageError("input `steps` differs between the images of one request; send separate "
                         "requests")
    return Work(image, seeds if len(seeds) == count else seeds * count,
                wanted.pop() if wanted else None, cancelled)


def _whole_numbers(name: str, values: np.ndarray | None, low: int, high: int) -> tuple[int, ...]:
    if values is None:
        return ()
    if values.dtype.kind not in "iu" or not values.size:
        raise UsageError(f"input `{name}` has type {values.dtype} and shape {list(values.shape)}; "
                         "give int64 [N, 1]")
    return tuple(whole_number(f"input `{name}`", value, low, high) for value in values.reshape(-1))
