"""Engines of diffusion models: predict the noise, sample an image, upscale an image.

A backend subclasses ``NoisePredictor`` and implements ``_predict``, ``_close`` and ``description``.
All inputs are checked here, so that no backend has to.
"""

from __future__ import annotations

import abc
import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from ..checks import whole_number
from ..errors import EngineError, UsageError
from ..images.hidden_colours import without_hidden_colours
from ..images.image import Image
from ..images.resample import pad_reflect, to_condition
from ..images.tiles import TilePlan
from ..operators.names import INT8
from ..sampling import color_match, sampler
from ..sampling.noise import first_noise, gaussian_noise
from ..sampling.sampler import OnStep
from ..sampling.schedule import Schedule
from .image_engine import ImageEngine, Start
from .tile_choice import Tile, choose
from .tiled import tile_condition, upscale_blended

if TYPE_CHECKING:
    from ..bundle.record import NoisePredictorBundle

__all__ = ["PADDING_MULTIPLE", "NoisePredictor"]

PADDING_MULTIPLE = 8  # the published test procedure pads every network's inputs to multiples of 8


class NoisePredictor(ImageEngine):
    """The open bundle of a diffusion model: an ``ImageEngine`` that can also predict and sample.

    timesteps      the bundle's timesteps, strictly descending
    schedule       the noise schedule of these timesteps
    size_multiple  height and width of every input of ``predict`` must be multiples of this
    default_start  the ``start`` that the model was trained for; None: pure noise
    noiseless      whether that start has no noise: the result depends on the image alone
    """

    bundle: NoisePredictorBundle

    def __init__(self, bundle: NoisePredictorBundle) -> None:
        super().__init__(bundle)
        self.schedule: Schedule = bundle.schedule
        self.timesteps: tuple[int, ...] = self.schedule.check(bundle.timesteps)
        self.size_multiple: int = bundle.network.size_multiple(bundle.config)
        self.default_start: int | None = bundle.default_start
        self.noiseless: bool = bundle.noiseless

    @property
    def precision(self) -> str:
        """The least precise type in use: float32, bfloat16 (for factors of products) or float16
        (for feature maps too)."""
        return self.bundle.precision

    @abc.abstractmethod
    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        """The network's output at one timestep; inputs are checked, contiguous and of one
        shape."""

    def predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        """The predicted noise in ``noisy``, float32 (N, 3, H, W).

        noisy      x_t, float32 (N, 3, H, W), finite; other floats are converted. H and W are
                   multiples of ``size_multiple``
        condition  the upscaled low-resolution image, of the same shape and type
        timestep   one of ``timesteps``

        Raises UsageError for other inputs, EngineError if the engine is closed or its result is
        not finite.
        """
        self._check_open()
        noisy = self._tensor("noisy", noisy)
        condition = self._tensor("condition", condition)
        if noisy.shape != condition.shape:
            raise UsageError(f"noisy has shape {noisy.shape} and condition {condition.shape}; "
                             "they must be equal")
        height, width = noisy.shape[2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise UsageError(f"height {height} and width {width} must be multiples of "
                             f"{self.size_multiple}; pad them, or call sample, which pads")
        prediction = self._predict(noisy, condition, self._timestep(timestep))
        if not np.isfinite(prediction).all():
            raise EngineError(f"the network's output at timestep {timestep} contains values that "
                              "are not finite; check the bundle")
        return prediction

    def sample(self, condition: np.ndarray, noise: np.ndarray | None = None, seed: int = 0, *,
               steps: int | None = None, start: Start = "default", match_color: bool = False,
               on_step: OnStep | None = None) -> np.ndarray:
        """Run the whole loop and return the image, float32 (N, 3, H, W) in [0, 1].

        condition    float32 (N, 3, H, W) or (3, H, W) of any size: the result of ``to_condition``.
                     It is padded by reflection to multiples of ``unit``, as the published code
                     does for every network, and the result is cropped back
        noise        N(0, 1) of the condition's shape or of the padded shape; None: drawn by
                     ``gaussian_noise`` from ``seed``, one stream for each item of the batch. For
                     noise of the condition's shape the padding's noise is drawn from ``seed``. A
                     model that is ``noiseless`` uses neither
        steps        how many of ``timesteps`` to visit, evenly spaced; None: all
        start        begin at the first timestep at or below it, from the noised condition; None:
                     begin at the first timestep, from pure noise; "default": ``default_start``
        match_color  whether to replace the result's low frequencies by the condition's, which
                     removes colour shifts; see ``color_match``
        on_step      called with (steps done, steps in all)

        Raises UsageError for inputs that do not fit, EngineError as ``predict``.
        """
        self._check_open()
        if isinstance(condition, np.ndarray) and condition.ndim == 3:
            condition = condition[None]
            if isinstance(noise, np.ndarray) and noise.ndim == 3:
                noise = noise[None]
        condition = self._tensor("condition", condition)
        start, visited = self._visited(steps, start)
        padded, (height, width) = pad_reflect(condition, self.unit)
        if noise is not None:
            noise = self._tensor("noise", noise)
            if noise.shape not in (condition.shape, padded.shape):
                raise UsageError(f"noise has shape {noise.shape}, but the condition has "
                                 f"{condition.shape}; give one of the condition's shape")
        if self.noiseless:
            field = self.noise(padded.shape, seed)
        elif noise is not None and noise.shape == padded.shape:
            gaussian_noise((0, 0, 0, 0), seed)  # raises UsageError for an invalid seed
            field = noise
        else:
            field = self.noise(padded.shape, seed)
            if noise is not None:
                field[:, :, :height, :width] = noise
        result = self._loop(padded, field, visited, start, on_step)
        result = np.ascontiguousarray(result[:, :, :height, :width])
        return color_match.match_color(result, condition) if match_color else result

    def _loop(self, condition: np.ndarray, noise: np.ndarray, timesteps: tuple[int, ...],
              start: int | None, on_step: OnStep | None) -> np.ndarray:
        """``sampler.sample`` on checked inputs; a backend may keep the loop on its device."""
        return sampler.sample(self.predict, condition, timesteps, self.schedule, noise,
                              start=start, on_step=on_step)

    @property
    def unit(self) -> int:
        """Heights and widths are padded to multiples of this."""
        return math.lcm(PADDING_MULTIPLE, self.size_multiple)

    def noise(self, shape: tuple[int, int, int, int], seed: int, *, top: int = 0,
              left: int = 0) -> np.ndarray:
        """The noise that sampling starts from, see ``sampling.noise.first_noise``."""
        return first_noise(shape, seed, self.noiseless, top=top, left=left)

    def check_loop(self, steps: int | None, start: Start = "default",
                   match_color: bool = False, ensemble: int = 1) -> None:
        self._check_no_ensemble(ensemble)
        self._visited(steps, start)

    def _visited(self, steps: int | None, start: Start) -> tuple[int | None, tuple[int, ...]]:
        """The start, and the timesteps that a loop visits."""
        if self.noiseless and start not in ("default", self.default_start):
            raise UsageError(f"start {start!r} is for models that start from noise; this one "
                             "starts from the image alone, so leave start out")
        first = self.default_start if start == "default" else start
        return first, sampler.pick_timesteps(self.timesteps, steps, first)

    def step_bytes(self, height: int, width: int) -> int:
        """Estimated peak memory of a loop, for one output of that size."""
        # Around int8 layers are standard operators too.
        return self.bundle.network.peak_bytes(
            self.bundle.config, height, width,
            stock=self.kernel == "stock" or self.bundle.precision == INT8)

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        network, config = self.bundle.network, self.bundle.config
        return choose((height * self.scale, width * self.scale), tile, memory, overlap, self.unit,
                      functools.partial(network.work, config), self.step_bytes)

    def upscale_image(self, image: Image, seed: int = 0, *, tile: Tile = "auto",
                      memory: int | None = None, overlap: int | None = None,
                      steps: int | None = None, start: Start = "default",
                      match_color: bool = False, ensemble: int = 1,
                      plan: TilePlan | None = None,
                      on_step: OnStep | None = None, on_tile: OnStep | None = None) -> Image:
        """As ``ImageEngine.upscale_image``; tiles and overlaps are multiples of ``unit``.

        "auto" runs outputs of up to 1024x1024 pixels whole. The usual overlap is the one that was
        measured to leave no seams; ``images.tiles`` says which operations are local to a tile.
        Colours are matched on the whole image, not in each tile. An image of one tile equals the
        result of ``sample`` bit by bit. Raises UsageError as ``tile_plan`` and ``check_loop``.
        """
        self._check_open()
        self.check_loop(steps, start, match_color, ensemble)
        image = without_hidden_colours(image)
        if plan is None:
            plan = self.tile_plan(image.height, image.width, tile, memory, overlap)

        def run(top: int, left: int, listen: OnStep | None) -> np.ndarray:
            condition = tile_condition(image.pixels, self.scale, plan, top, left, self.unit)
            noise = self.noise(condition.shape, seed, top=top, left=left)
            return self.sample(condition, noise, seed, steps=steps, start=start, on_step=listen)

        if not plan.whole:
            return upscale_blended(run, image, self.scale, plan, match_color=match_color,
                                   on_step=on_step, on_tile=on_tile)
        result = self.sample(to_condition(image.pixels, self.scale), seed=seed, steps=steps,
                             start=start, match_color=match_color, on_step=on_step)
        enlarged = image.enlarged(result[0], self.scale)
        if on_tile is not None:
            on_tile(1, 1)
        return enlarged

    def _timestep(self, timestep: int) -> int:
        timestep = whole_number("timestep", timestep, 0)
        if timestep not in self.timesteps:
            nearest = min(self.timesteps, key=lambda t: abs(t - timestep))
            listed = ", ".join(map(str, self.timesteps[:8]))
            if len(self.timesteps) > 8:
                listed += f", ... {self.timesteps[-1]}"
            raise UsageError(f"the bundle has no timestep {timestep}; the nearest of its "
                             f"{len(self.timesteps)} is {nearest} ({listed})")
        return timestep
