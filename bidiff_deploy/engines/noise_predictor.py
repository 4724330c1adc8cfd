"""The protocol of a diffusion engine, and what such engines of all backends share.

A backend subclasses ``NoisePredictor`` and implements ``_predict``, ``_close`` and ``description``. What
goes in is checked here, once, so that no backend has to.
"""

from __future__ import annotations

import abc
import functools
import math
import operator
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import EngineError, UsageError
from ..images.image import Image
from ..images.resample import pad_reflect, to_condition
from ..images.tiles import TilePlan
from ..sampling import color_match, sampler
from ..sampling.noise import gaussian_noise
from ..sampling.sampler import OnStep
from ..sampling.schedule import Schedule
from .image_engine import ImageEngine
from .tile_choice import Tile, choose
from .tiled import upscale_blended

if TYPE_CHECKING:
    from ..bundle.record import NoisePredictorBundle

__all__ = ["NoisePredictor"]

PADDING_MULTIPLE = 8  # of the published code's test procedure, whatever the network's levels
Start = int | None | Literal["default"]


class NoisePredictor(ImageEngine):
    """A diffusion model's bundle, open: a context manager with predict, sample and upscale.

    bundle         what it was opened from
    scale          how many times larger the output is than the low-resolution image
    timesteps      the bundle's timesteps, strictly descending
    schedule       the noise schedule they belong to
    size_multiple  height and width of every input of ``predict`` must be multiples of this
    default_start  the ``start`` that the bundle's model was made for; None: pure noise
    """

    bundle: NoisePredictorBundle

    def __init__(self, bundle: NoisePredictorBundle) -> None:
        super().__init__(bundle)
        self.schedule: Schedule = bundle.schedule
        self.timesteps: tuple[int, ...] = self.schedule.check(bundle.timesteps)
        self.size_multiple: int = bundle.network.size_multiple(bundle.config)
        self.default_start: int | None = bundle.default_start

    @property
    def precision(self) -> str:
        """What it rounds to, of what the bundle allows: bfloat16 (factors of products), float16
        (these and maps), or float32 for neither."""
        return self.bundle.precision

    @abc.abstractmethod
    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        """The network at one timestep; inputs are checked, contiguous and of one shape."""

    def predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        """The noise that the network sees in ``noisy``.

        ``noisy``: x_t, ``condition``: the upscaled low-resolution image; float32 (N, 3, H, W) each
        (other floats are converted), H and W multiples of ``size_multiple``, all finite.
        ``timestep``: one of ``timesteps``. Returns float32 (N, 3, H, W). Raises UsageError for
        other inputs, EngineError if the engine is closed or its result is not finite.
        """
        self._check_open()
        noisy = self._planes("noisy", noisy)
        condition = self._planes("condition", condition)
        if noisy.shape != condition.shape:
            raise UsageError(f"noisy has shape {noisy.shape} and condition {condition.shape}; "
                             "they must be equal")
        height, width = noisy.shape[2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise UsageError(f"height {height} and width {width} must be multiples of "
                             f"{self.size_multiple}; pad them, or call sample, which does")
        prediction = self._predict(noisy, condition, self._timestep(timestep))
        if not np.isfinite(prediction).all():
            raise EngineError(f"the network's output at timestep {timestep} holds values that are "
                              "not finite; check the bundle")
        return prediction

    def sample(self, condition: np.ndarray, noise: np.ndarray | None = None, seed: int = 0, *,
               steps: int | None = None, start: Start = "default", match_color: bool = False,
               on_step: OnStep | None = None) -> np.ndarray:
        """Run the whole loop and return the image, float32 (N, 3, H, W) in [0, 1].

        condition  float32 (N, 3, H, W) or (3, H, W) of any size: what ``to_condition`` makes of a
                   low-resolution image. It is padded by reflection to multiples of 8 (and of
                   ``size_multiple``), as the published code does for every network, and the
                   result is cropped back.
        noise      N(0, 1) of the condition's shape or of the padded one; None draws
                   ``gaussian_noise`` of ``seed``, item i of the batch as image i. Where only the
                   condition's part is given, the padding's noise is that of ``seed``.
        steps      visit that many of ``timesteps``, evenly picked; None: all
        start      begin at the first timestep at or below it from the noised condition; None:
                   begin at the first timestep from pure noise; "default": ``default_start``
        match_color  whether the result's low frequencies are replaced by the condition's, which
                   takes shifts of colour away; see ``color_match``
        on_step    called with (steps done, steps in all)

        Raises UsageError for inputs that do not fit, EngineError as ``predict``.
        """
        self._check_open()
        if isinstance(condition, np.ndarray) and condition.ndim == 3:
            condition = condition[None]
            if isinstance(noise, np.ndarray) and noise.ndim == 3:
                noise = noise[None]
        condition = self._planes("condition", condition)
        if start == "default":
            start = self.default_start
        visited = sampler.pick_timesteps(self.timesteps, steps, start)
        padded, (height, width) = pad_reflect(condition, self.unit)
        if noise is not None:
            noise = self._planes("noise", noise)
            if noise.shape not in (condition.shape, padded.shape):
                raise UsageError(f"noise has shape {noise.shape}, but the condition has "
                                 f"{condition.shape}; give one of the condition's shape")
        if noise is not None and noise.shape == padded.shape:
            gaussian_noise((0, 0, 0, 0), seed)  # refuses what is no seed
            field = noise
        else:
            field = gaussian_noise(padded.shape, seed)
            if noise is not None:
                field[:, :, :height, :width] = noise
        result = self._loop(padded, field, visited, start, on_step)
        result = np.ascontiguousarray(result[:, :, :height, :width])
        return color_match.match_color(result, condition) if match_color else result

    def _loop(self, condition: np.ndarray, noise: np.ndarray, timesteps: tuple[int, ...],
              start: int | None, on_step: OnStep | None) -> np.ndarray:
        """``sampler.sample`` on inputs that are checked; a backend may keep the loop on its
        device."""
        return sampler.sample(self.predict, condition, timesteps, self.schedule, noise,
                              start=start, on_step=on_step)

    @property
    def unit(self) -> int:
        """What heights and widths are padded to a multiple of."""
        return math.lcm(PADDING_MULTIPLE, self.size_multiple)

    def check_loop(self, steps: int | None, start: Start = "default",
                   match_color: bool = False) -> None:
        """Raise UsageError for options that ``sample`` would refuse."""
        sampler.pick_timesteps(self.timesteps, steps,
                               self.default_start if start == "default" else start)

    def step_bytes(self, height: int, width: int) -> int:
        """Estimated peak of a step on one image of that size and of the loop around it."""
        return self.bundle.network.peak_bytes(self.bundle.config, height, width,
                                              stock=self.kernel == "stock")

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        """How ``upscale_image`` would run an image of ``height`` x ``width`` pixels (before
        enlarging) with these options; sizes in the plan are the output's. Raises UsageError for
        options that are out of range or contradict each other."""
        return choose((height * self.scale, width * self.scale), tile, memory, overlap, self.unit,
                      functools.partial(self.bundle.network.work, self.bundle.config), self.step_bytes)

    def upscale_image(self, image: Image, seed: int = 0, *, tile: Tile = "auto",
                      memory: int | None = None, overlap: int | None = None,
                      steps: int | None = None, start: Start = "default",
                      match_color: bool = False, on_step: OnStep | None = None,
                      on_tile: OnStep | None = None) -> Image:
        """An ``Image`` at ``scale`` times the size, with its depth, grey, alpha, profile.

        tile     side of square tiles in output pixels, from 64, rounded up to a multiple of
                 ``unit``; None: the image is run whole; "auto": whole up to 1024x1024 pixels of
                 output that fit ``memory``, else tiles that fit it and take the least time
        memory   bytes that a step may need at its peak, as estimated; None: half of what the
                 machine has left. The result and the image itself come on top
        overlap  of neighbouring tiles in output pixels, rounded up likewise; None: as measured to
                 leave no seams. See ``tiling`` for what of a tile is local to it
        on_step  called with (steps done, steps in all), counted over all tiles
        on_tile  called with (tiles done, tiles in all)

        ``steps``, ``start`` and ``match_color`` as ``sample`` has them; colours are matched on the
        whole image, not in each tile. An image of one tile is bit by bit what ``sample`` makes of
        it. Raises UsageError as ``tile_plan``, and as ``sample``.
        """
        self._check_open()
        plan = self.tile_plan(image.height, image.width, tile, memory, overlap)
        loop = {"seed": seed, "steps": steps, "start": start}
        if not plan.whole:
            return upscale_blended(self.sample, image, self.scale, self.unit, plan,
                                   match_color=match_color, on_step=on_step, on_tile=on_tile, **loop)
        condition = to_condition(image.pixels, self.scale)
        result = image.enlarged(self.sample(condition, match_color=match_color, on_step=on_step,
                                            **loop)[0], self.scale)
        if on_tile is not None:
            on_tile(1, 1)
        return result

    def _timestep(self, timestep: int) -> int:
        try:
            if isinstance(timestep, (bool, np.bool_)):
                raise TypeError
            timestep = operator.index(timestep)
        except TypeError:
            raise UsageError(f"timestep is {timestep!r}; it must be a whole number") from None
        if timestep not in self.timesteps:
            nearest = min(self.timesteps, key=lambda t: abs(t - timestep))
            listed = ", ".join(map(str, self.timesteps[:8]))
            if len(self.timesteps) > 8:
                listed += f", ... {self.timesteps[-1]}"
            raise UsageError(f"the bundle has no timestep {timestep}; the nearest of its "
                             f"{len(self.timesteps)} is {nearest} ({listed})")
        return timestep
