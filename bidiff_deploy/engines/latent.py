"""Engines of latent networks: encode an image, predict clean latents, sample, decode, upscale.

A backend subclasses ``LatentDiffusion`` and implements ``_run``, ``_close`` and ``description``.
Published programs pad the low-resolution image by reflection, enlarge it by bicubic interpolation,
encode that, run the loop with the padded image as condition, decode, clamp and crop. Images of more
than one tile are cut before that, so that nothing is padded.
"""

from __future__ import annotations

import abc
import functools
from typing import TYPE_CHECKING

import numpy as np

from ..checks import whole_number
from ..errors import EngineError, UsageError
from ..images.hidden_colours import without_hidden_colours
from ..images.image import Image
from ..images.resample import enlarge, pad_reflect
from ..images.tiles import TilePlan
from ..networks.base import DECODER, ENCODER, STEP
from ..networks.resshift.vq import SIDES
from ..sampling import color_match, resshift
from ..sampling.noise import gaussian_noise
from ..sampling.sampler import OnStep, pick_timesteps
from .image_engine import ImageEngine, Start
from .tile_choice import Tile, choose
from .tiled import to_tensor, upscale_blended

if TYPE_CHECKING:
    from ..bundle.record import LatentBundle

__all__ = ["LatentDiffusion"]

_OVERLAP = 32  # of published tiles, in pixels of the low-resolution image


class LatentDiffusion(ImageEngine):
    """The open bundle of a latent network: an ``ImageEngine`` that can also encode, predict,
    sample and decode.

    timesteps      the bundle's timesteps, strictly descending
    schedule       ResShift's schedule
    sampler        how the loop goes from step to step, of ``sampling.resshift.SAMPLERS``
    size_multiple  height and width of every input of ``predict`` must be multiples of this
    latent_channels, factor  of a latent, and how many times smaller than an image it is
    """

    bundle: LatentBundle

    def __init__(self, bundle: LatentBundle) -> None:
        super().__init__(bundle)
        self.schedule = bundle.schedule
        self.timesteps: tuple[int, ...] = self.schedule.check(bundle.timesteps)
        self.sampler = bundle.sampler
        self.size_multiple: int = bundle.network.size_multiple(bundle.config)
        self.latent_channels: int = bundle.config.autoencoder.latent
        self.factor: int = bundle.config.autoencoder.factor

    @abc.abstractmethod
    def _run(self, part: str, inputs: dict[str, np.ndarray], timestep: int = 0) -> np.ndarray:
        """The output of the graph of a part; inputs are checked and contiguous."""

    # -- the parts --------------------------------------------------------------------------------
    def encode(self, image: np.ndarray) -> np.ndarray:
        """The latent of an image, not quantised: float32 (N, C, H / factor, W / factor).

        ``image``: float32 (N, 3, H, W), about [-1, 1]; H and W are multiples of 4 * ``factor``.
        Raises UsageError for other inputs, EngineError as ``predict``.
        """
        image = self._map("image", image, self.channels, SIDES * self.factor)
        return self._finite("the encoder's output", self._run(ENCODER, {"image": image}))

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """The image of a latent whose positions are replaced by their nearest codes: float32 (N, 3,
        H * factor, W * factor), about [-1, 1], not clipped.

        ``latent``: float32 (N, C, H, W); H and W are multiples of 4. Raises as ``encode``.
        """
        latent = self._map("latent", latent, self.latent_channels, SIDES)
        return self._finite("the decoder's output", self._run(DECODER, {"latent": latent}))

    def predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        """The network's clean latent, float32 (N, C, H, W).

        noisy      float32 (N, C, H, W), x_t times ``schedule.input_scale(timestep)``. H and W are
                   multiples of ``size_multiple``
        condition  the low-resolution image in [-1, 1], float32 (N, 3, H, W)
        timestep   one of ``timesteps``

        Raises UsageError for other inputs, EngineError if the engine is closed or its result is not
        finite.
        """
        noisy = self._map("noisy", noisy, self.latent_channels, self.size_multiple)
        condition = self._map("condition", condition, self.channels, self.size_multiple)
        if noisy.shape[0] != condition.shape[0] or noisy.shape[2:] != condition.shape[2:]:
            raise UsageError(f"noisy has shape {noisy.shape} and condition {condition.shape}; "
                             "number, height and width must be equal")
        timestep = whole_number("timestep", timestep, 0)
        if timestep not in self.timesteps:
            raise UsageError(f"the bundle has no timestep {timestep}; it has "
                             f"{', '.join(map(str, self.timesteps))}")
        found = self._run(STEP, {"noisy": noisy, "condition": condition}, timestep)
        return self._finite(f"the network's output at timestep {timestep}", found)

    # -- the loop ---------------------------------------------------------------------------------
    def sample_latent(self, y: np.ndarray, condition: np.ndarray, noise: np.ndarray | None = None,
                      seed: int = 0, *, steps: int | None = None, sampler: str | None = None,
                      on_step: OnStep | None = None) -> np.ndarray:
        """Run the loop and return the clean latent, float32 (N, C, H, W).

        y          the latent of the enlarged low-resolution image
        condition  as in ``predict``
        noise      (N, C * maps, H, W), see ``resshift.sample``; None: drawn from ``seed``
        steps      how many of ``timesteps`` to visit, evenly spaced; None: all
        sampler    None: the bundle's
        """
        y = self._map("y", y, self.latent_channels, self.size_multiple)
        visited = pick_timesteps(self.timesteps, steps)
        sampler = resshift.check_sampler(sampler or self.sampler)
        if noise is None:
            noise = self._noise(y.shape, seed, visited, sampler)
        else:
            noise = self._map("noise", noise, None, self.size_multiple)
        return resshift.sample(lambda noisy, t: self.predict(noisy, condition, t), y, visited,
                               self.schedule, sampler, noise, on_step)

    def sample(self, image: np.ndarray, noise: np.ndarray | None = None, seed: int = 0, *,
               steps: int | None = None, sampler: str | None = None,
               on_step: OnStep | None = None) -> np.ndarray:
        """The enlarged image, float32 (N, 3, H * scale, W * scale) in [0, 1].

        ``image``: the low-resolution image, float32 (N, 3, H, W) in [0, 1], of any size; padded by
        reflection to multiples of ``size_multiple``, and the result is cropped. The rest as in
        ``sample_latent``, with ``noise`` of the padded size. Raises as ``predict``.
        """
        self._check_open()
        padded, (height, width) = pad_reflect(self._tensor("image", image), self.size_multiple)
        result = self._sample(padded, noise, seed, steps, sampler, on_step)
        return np.ascontiguousarray(result[:, :, :height * self.scale, :width * self.scale])

    def _sample(self, image: np.ndarray, noise: np.ndarray | None, seed: int, steps: int | None,
                sampler: str | None, on_step: OnStep | None) -> np.ndarray:
        """``sample`` of an image that is padded already."""
        condition = np.ascontiguousarray(image) * np.float32(2) - np.float32(1)
        y = self.encode(enlarge(condition, self.scale))
        result = self.decode(self.sample_latent(y, condition, noise, seed, steps=steps,
                                                sampler=sampler, on_step=on_step))
        image = result / 2 + np.float32(0.5)
        return np.clip(image, np.float32(0), np.float32(1), out=image)

    def _noise(self, shape: tuple[int, ...], seed: int, visited: tuple[int, ...], sampler: str, *,
               top: int = 0, left: int = 0) -> np.ndarray:
        """The noise of a loop on a latent of ``shape``, whose place in a larger one is ``top``,
        ``left``."""
        maps = resshift.draws(sampler, len(visited))
        count, channels, height, width = shape
        return gaussian_noise((count, channels * maps, height, width), seed, top=top, left=left)

    # -- images -----------------------------------------------------------------------------------
    def check_loop(self, steps: int | None, start: Start = "default",
                   match_color: bool = False, ensemble: int = 1) -> None:
        self._check_no_ensemble(ensemble)
        if start != "default":
            raise UsageError(f"start {start!r} is for diffusion bundles; a latent network always "
                             "begins at its first timestep, so leave start out")
        pick_timesteps(self.timesteps, steps)

    def tile_plan(self, height: int, width: int, tile: Tile = "auto", memory: int | None = None,
                  overlap: int | None = None) -> TilePlan:
        network, config = self.bundle.network, self.bundle.config
        return choose((height * self.scale, width * self.scale), tile, memory, overlap,
                      self.size_multiple * self.scale, functools.partial(network.work, config),
                      functools.partial(network.peak_bytes, config),
                      usual_overlap=_OVERLAP * self.scale, align=self.scale)

    def upscale_image(self, image: Image, seed: int = 0, *, tile: Tile = "auto",
                      memory: int | None = None, overlap: int | None = None,
                      steps: int | None = None, start: Start = "default",
                      match_color: bool = False, ensemble: int = 1,
                      plan: TilePlan | None = None,
                      on_step: OnStep | None = None, on_tile: OnStep | None = None) -> Image:
        """As ``ImageEngine.upscale_image``; sides of tiles are multiples of ``size_multiple *
        scale``, overlaps of ``scale``.

        The usual overlap is the published one; where tiles overlap they are blended, and all start
        from crops of one field of noise. An image of one tile equals the result of ``sample``.
        Raises UsageError as ``tile_plan`` and ``check_loop``.
        """
        self._check_open()
        self.check_loop(steps, start, match_color, ensemble)
        image = without_hidden_colours(image)
        if plan is None:
            plan = self.tile_plan(image.height, image.width, tile, memory, overlap)
        if plan.whole:
            pixels = to_tensor(image.pixels)
            result = self.sample(pixels, seed=seed, steps=steps, on_step=on_step)
            if match_color:
                result = color_match.match_color(result, enlarge(pixels, self.scale))
            if on_tile is not None:
                on_tile(1, 1)
            return image.enlarged(result[0], self.scale)
        visited = pick_timesteps(self.timesteps, steps)

        def run(top: int, left: int, listen: OnStep | None) -> np.ndarray:
            y, x = top // self.scale, left // self.scale
            crop = to_tensor(image.pixels[y:y + plan.tile_height // self.scale,
                                          x:x + plan.tile_width // self.scale])
            padded, _ = pad_reflect(crop, self.size_multiple)  # of an axis with one tile
            shape = (1, self.latent_channels, *padded.shape[2:])
            noise = self._noise(shape, seed, visited, self.sampler, top=y, left=x)
            return self._sample(padded, noise, seed, steps, None, listen)

        return upscale_blended(run, image, self.scale, plan, match_color=match_color,
                               on_step=on_step, on_tile=on_tile)

    # -- checks -----------------------------------------------------------------------------------
    def _map(self, name: str, array: np.ndarray, channels: int | None, multiple: int) -> np.ndarray:
        """``_tensor`` of any number of channels for None, with sides in multiples of
        ``multiple``."""
        self._check_open()
        array = self._tensor(name, array, channels)
        height, width = array.shape[2:]
        if height % multiple or width % multiple:
            raise UsageError(f"{name}: height {height} and width {width} must be multiples of "
                             f"{multiple}; pad it, or call sample, which pads")
        return array

    def _finite(self, what: str, result: np.ndarray) -> np.ndarray:
        if not np.isfinite(result).all():
            raise EngineError(f"{what} contains values that are not finite; check the bundle")
        return result
