"""Engines of networks that map a low-resolution image to the large one in one run."""

from __future__ import annotations

import abc
import functools

import numpy as np

from ..errors import EngineError, UsageError
from ..images.hidden_colours import without_hidden_colours
from ..images.image import Image
from ..images.tiles import OVERLAP, TilePlan
from ..operators.names import INT8
from ..sampling.noise import gaussian_noise
from ..sampling.sampler import OnStep
from .ensemble import check_count, enlarge_copies
from .image_engine import ImageEngine, Start
from .tile_choice import Tile, choose
from .tiled import upscale_exactly

__all__ = ["OneRun"]

# Time grows with the area and no faster, so every image that fits the memory is run whole.
_WHOLE_PIXELS = 1 << 32


class OneRun(ImageEngine):
    """The open bundle of a network without a loop: an ``ImageEngine`` with ``enlarge``."""

    @abc.abstractmethod
    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        """The network's output; the input is checked and contiguous."""

    def enlarge(self, image: np.ndarray) -> np.ndarray:
        """The network's output, float32 (N, 3, H * scale, W * scale), not clipped.

        ``image``: float32 (N, 3, H, W), about [0, 1]. Raises UsageError for other inputs,
        EngineError if the engine is closed, the image does not fit into memory, or the result is
        not finite.
        """
        self._check_open()
        result = self._enlarge(self._tensor("image", image))
        if not np.isfinite(result).all():
            raise EngineError("the network's output contains values that are not finite; check "
                              "the bundle")
        return result

    def check_loop(self, steps: int | None, start: Start = "default",
                   match_color: bool = False, ensemble: int = 1) -> None:
        """Raise UsageError for ``steps``, ``start`` and ``match_color``: the network has no steps,
        and its colours do not drift; and for an ``ensemble`` other than 1, 2, 4 and 8."""
        check_count(ensemble)
        if match_color:
            raise UsageError("match_color is for diffusion bundles; the colours of a feed-forward "
                             "network do not drift, so leave match_color out")
        for name, value, default in (("steps", steps, None), ("start", start, "default")):
            if value != default:
                raise UsageError(f"{name} {value!r} is for diffusion bundles; a feed-forward one "
                                 f"has no time steps, so leave {name} out")

    @property
    def precision(self) -> str:
        """The least precise type in use: float32, float16 (for feature maps) or int8."""
        return self.bundle.precision

    def step_bytes(self, height: int, width: int) -> int:
        """Estimated peak memory of a run, for one output of that size."""
        # Around int8 layers are standard operators too.
        return self.bundle.network.peak_bytes(
            self.bundle.config, height, width,
            stock=self.kernel == "stock" or self.bundle.precision == INT8)

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        network, config = self.bundle.network, self.bundle.config
        reach = network.reach(config)
        return choose((height * self.scale, width * self.scale), tile, memory, overlap,
                      self.scale * network.tile_multiple(config),
                      functools.partial(network.work, config), self.step_bytes,
                      usual_overlap=OVERLAP if reach is None else 2 * reach * self.scale,
                      whole_pixels=_WHOLE_PIXELS)

    def upscale_image(self, image: Image, seed: int = 0, *, tile: Tile = "auto",
                      memory: int | None = None, overlap: int | None = None,
                      steps: int | None = None, start: Start = "default",
                      match_color: bool = False, ensemble: int = 1,
                      plan: TilePlan | None = None,
                      on_step: OnStep | None = None, on_tile: OnStep | None = None) -> Image:
        """As ``ImageEngine.upscale_image``; tiles and overlaps are multiples of ``scale``, some
        of more.

        The usual overlap is twice the network's reach, at most half a tile. With it, larger tiles
        return exactly the pixels of the whole image; those of a network whose pixels depend on all
        others differ from it, least in the middle of an overlap, where tiles are cut, and those of
        an ``ensemble`` by its rounding. ``on_step`` counts tiles, as ``on_tile``. ``seed`` is
        checked and has no effect. Raises UsageError as ``tile_plan`` and ``check_loop``.
        """
        self._check_open()
        self.check_loop(steps, start, match_color, ensemble)
        gaussian_noise((0, 0, 0, 0), seed)  # raises UsageError for an invalid seed

        def done(count: int, total: int) -> None:
            for listen in (on_step, on_tile):
                if listen is not None:
                    listen(count, total)

        image = without_hidden_colours(image)
        if plan is None:
            plan = self.tile_plan(image.height, image.width, tile, memory, overlap)
        run = functools.partial(enlarge_copies, self.enlarge, ensemble)
        return upscale_exactly(run, image, self.scale, plan, done)
