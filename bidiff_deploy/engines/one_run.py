"""Engines of networks that map a low-resolution image to the large one in one run."""

from __future__ import annotations

import abc
import functools
from typing import Any

import numpy as np

from ..errors import EngineError, UsageError
from ..images.image import Image
from ..images.tiles import TilePlan
from ..sampling.noise import gaussian_noise
from ..sampling.sampler import OnStep
from .image_engine import ImageEngine
from .tile_choice import Tile, choose
from .tiled import upscale_exactly

__all__ = ["OneRun"]

_WHOLE_PIXELS = 1 << 32  # nothing in such a network takes more time per pixel of a larger image


class OneRun(ImageEngine):
    """A network without a loop, open: a context manager with ``enlarge`` and ``upscale``."""

    @abc.abstractmethod
    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        """The network on checked, contiguous input."""

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        """The network: float32 (N, 3, H, W), about [0, 1] -> (N, 3, H * scale, W * scale).

        The output is not clipped. Raises UsageError for other inputs, EngineError if the engine is
        closed, the image does not fit into memory, or the result is not finite.
        """
        self._check_open()
        result = self._enlarge(self._planes("image", image))
        if not np.isfinite(result).all():
            raise EngineError("the network's output holds values that are not finite; check the "
                              "bundle")
        return result

    def check_loop(self, steps: Any, start: Any = "default", match_color: bool = False) -> None:
        """Raise UsageError for any steps and start: there are none; nor is there a drift of
        colours to correct, for the network adds to the enlarged image."""
        if match_color:
            raise UsageError("match_color is for diffusion bundles; a feed-forward network adds "
                             "to the enlarged image and does not drift, so leave it out")
        for name, value, default in (("steps", steps, None), ("start", start, "default")):
            if value != default:
                raise UsageError(f"{name} {value!r} is for diffusion bundles; a feed-forward one "
                                 f"has no time steps, so leave {name} out")

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        network, config = self.bundle.network, self.bundle.config
        reach = network.reach(config)
        assert reach is not None, "tiles of such a network need its reach"
        return choose((height * self.scale, width * self.scale), tile, memory, overlap, self.scale,
                      functools.partial(network.work, config),
                      functools.partial(network.peak_bytes, config, stock=self.kernel == "stock"),
                      usual_overlap=2 * reach * self.scale, whole_pixels=_WHOLE_PIXELS)

    def upscale_image(self, image: Image, seed: int = 0, *, tile: Tile = "auto",
                      memory: int | None = None, overlap: int | None = None,
                      steps: None = None, start: str = "default", match_color: bool = False,
                      on_step: OnStep | None = None, on_tile: OnStep | None = None) -> Image:
        """An ``Image`` at ``scale`` times the size, with its depth, grey, alpha, profile.

        tile, memory  as ``NoisePredictor.upscale_image`` has them; tiles are multiples of ``scale``
        overlap       of neighbouring tiles in output pixels; None: twice what a pixel depends on,
                      or half of a small tile. Then tiles of more than that give the very pixels of
                      the whole image
        on_step       called with (tiles done, tiles in all); so is ``on_tile``

        ``seed`` changes nothing, because nothing is drawn. Raises UsageError as ``tile_plan`` and
        ``check_loop``.
        """
        self._check_open()
        self.check_loop(steps, start, match_color)
        gaussian_noise((0, 0, 0, 0), seed)  # refuses what is no seed

        def done(count: int, total: int) -> None:
            for listen in (on_step, on_tile):
                if listen is not None:
                    listen(count, total)

        plan = self.tile_plan(image.height, image.width, tile, memory, overlap)
        return upscale_exactly(self.enlarge, image, self.scale, plan, done)
