"""How well a network under training restores photos that it is not trained on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..images.resample import pad_reflect
from ..images.scores import bicubic, score
from ..sampling.noise import gaussian_noise
from ..sampling.sampler import Predict, sample
from .data import Pair
from .networks.bi_diffsr import BiDiffSR
from .recipe import Recipe


def as_predict(network: torch.nn.Module) -> Predict:
    """The network as the sampler calls it: float32 arrays (N, 3, H, W) and a timestep, no
    gradients. It runs on the device that holds the network."""
    @torch.no_grad()
    def predict(noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        device = next(network.parameters()).device
        inputs = [torch.from_numpy(np.ascontiguousarray(array)).to(device)
                  for array in (noisy, condition)]
        return network(*inputs, timestep).float().cpu().numpy()
    return predict


def restored(network: BiDiffSR, pair: Pair, recipe: Recipe) -> np.ndarray:
    """The photo that the network makes of a pair's low-resolution image, uint8 (H, W, 3), sampled
    at the recipe's timesteps with the noise of seed 0."""
    condition, (height, width) = pad_reflect(pair.condition[None], network.config.size_multiple)
    image = sample(as_predict(network), condition, recipe.timesteps, recipe.schedule,
                   gaussian_noise(condition.shape, seed=0), start=recipe.start)
    return np.rint(image[0, :, :height, :width] * 255).astype(np.uint8).transpose(1, 2, 0)


def measured(pair: Pair, picture: np.ndarray, *, pictures: bool = False) -> dict[str, Any]:
    """The pair's name; ``bicubic`` and ``network``, PSNR-Y in dB of Matlab's bicubic and of
    ``picture``, uint8 (H, W, 3), as ``bidiff-deploy evaluate`` measures them, infinite for one
    without a fault; and ``ssim_y`` of ``picture``, NaN where the photo is too small for it.
    ``pictures``: with the two and the photo, as ``pictures``."""
    enlarged = bicubic(pair.low, pair.scale)
    figures = score(picture, pair.high, pair.scale)
    found: dict[str, Any] = {
        "name": pair.name, "network": _or(figures["psnr_y"], math.inf),
        "bicubic": _or(score(enlarged, pair.high, pair.scale)["psnr_y"], math.inf),
        "ssim_y": _or(figures["ssim_y"], math.nan)}
    if pictures:
        found["pictures"] = [enlarged, picture, pair.high]
    return found


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
