"""A feed-forward bundle, open, by ONNX Runtime on CPU: one run of one graph a picture or tile."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import numpy as np

from ..errors import EngineError, UsageError
from . import one_run_tiled as tiles
from ..bundle.feedforward import FeedForwardBundle
from ..networks.bbcu.memory import picture_bytes
from ..images.image import Image
from ..sampling.noise import gaussian_noise
from ..sampling.sampler import OnStep
from .tile_choice import Tile, choose
from ..images.tiles import TilePlan
from .onnxruntime.cpu import import_onnxruntime, open_session, sentence
from .image_engine import PictureEngine
from ..bundle.step_graphs import StepGraphs

__all__ = ["FeedForwardEngine"]

_WHOLE_PIXELS = 1 << 32  # nothing in the network takes more time for a larger picture


class FeedForwardEngine(PictureEngine):
    """A feed-forward network that is open: a context manager with ``enlarge`` and ``upscale``."""

    def __init__(self, bundle: FeedForwardBundle, *, threads: int | None = None,
                 packed: bool = True) -> None:
        """Open a verified bundle. ``packed=False`` leaves the op library out. Raises EngineError
        without onnxruntime, or where a forced kernel can not run on this CPU."""
        super().__init__(bundle)
        self._ort = import_onnxruntime()
        self.threads = threads or os.cpu_count() or 1
        self._session, self.kernel = open_session(StepGraphs(bundle), self.threads, packed)

    @property
    def description(self) -> str:
        """Backend, version, kernel, precision and threads in a few words."""
        return (f"onnxruntime {self._ort.__version__}, kernel {self.kernel}, feed-forward, "
                f"{self.threads} thread{'s' if self.threads > 1 else ''}")

    def enlarge(self, picture: np.ndarray) -> np.ndarray:
        """The network: float32 (N, 3, H, W), about [0, 1] -> (N, 3, H * scale, W * scale).

        The output is not clipped. Raises UsageError for other inputs, EngineError if the engine is
        closed, the picture does not fit into memory, or the result is not finite.
        """
        self._check_open()
        picture = self._planes("picture", picture)
        try:
            result = self._session.run(None, {"picture": picture})[0]
        except Exception as error:  # onnxruntime raises classes of its C extension
            height, width = picture.shape[-2:]
            raise EngineError(f"onnxruntime could not run the network at {width}x{height}: "
                              f"{sentence(error)}; a smaller image, or smaller tiles, "
                              "need less memory") from None
        if not np.isfinite(result).all():
            raise EngineError("the network's output holds values that are not finite; check the "
                              "bundle")
        return result

    def predict(self, *_: Any, **__: Any) -> NoReturn:
        """Raises UsageError: there is no noise to predict."""
        raise UsageError("a feed-forward bundle predicts no noise; call enlarge or upscale, or "
                         "open a diffusion model's bundle")

    def sample(self, *_: Any, **__: Any) -> NoReturn:
        """Raises UsageError: there is no loop to run."""
        raise UsageError("a feed-forward bundle has no sampling loop; call enlarge or upscale, or "
                         "open a diffusion model's bundle")

    def check_loop(self, steps: Any, start: Any = "default", match_color: bool = False) -> None:
        """Raise UsageError for any steps and start: there are none; nor is there a drift of
        colours to correct, for the network adds to the enlarged picture."""
        if match_color:
            raise UsageError("match_color is for diffusion bundles; a feed-forward network adds "
                             "to the enlarged picture and does not drift, so leave it out")
        for name, value, default in (("steps", steps, None), ("start", start, "default")):
            if value != default:
                raise UsageError(f"{name} {value!r} is for diffusion bundles; a feed-forward one "
                                 f"has no time steps, so leave {name} out")

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        """How ``upscale_image`` would run an image of ``height`` x ``width`` pixels (before
        enlarging) with these options; sizes in the plan are the output's. Raises UsageError for
        options that are out of range or contradict each other."""
        config, stock = self.bundle.config, self.kernel == "stock"
        return choose((height * self.scale, width * self.scale), tile, memory, overlap, self.scale,
                      lambda rows, columns: rows * columns,
                      lambda rows, columns: picture_bytes(config, rows, columns, stock=stock),
                      usual_overlap=2 * config.reach * self.scale, whole_pixels=_WHOLE_PIXELS)

    def upscale_image(self, image: Image, seed: int = 0, *, tile: Tile = "auto",
                      memory: int | None = None, overlap: int | None = None,
                      steps: None = None, start: str = "default", match_color: bool = False,
                      on_step: OnStep | None = None, on_tile: OnStep | None = None) -> Image:
        """An ``images.Image`` at ``scale`` times the size, with its depth, grey, alpha, profile.

        tile, memory  as ``Engine.upscale_image`` has them; tiles are multiples of ``scale``
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
        return tiles.upscale(self.enlarge, image, self.scale, plan, done)

    def _close(self) -> None:
        self._session = None
