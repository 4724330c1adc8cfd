"""How well a network under training restores photos that it is not trained on."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import torch

from ..metrics import psnr_y
from ..noise import gaussian_noise
from ..resample import pad_reflect
from ..sampler import Predict, sample
from .data import Pair
from .network import BiDiffSR
from .recipe import Recipe


def as_predict(network: BiDiffSR) -> Predict:
    """The network as the sampler calls it: float32 arrays (N, 3, H, W) and a timestep, no
    gradients."""
    @torch.no_grad()
    def predict(noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        return network(torch.from_numpy(noisy), torch.from_numpy(condition), timestep).numpy()
    return predict


def validate(network: BiDiffSR, pairs: Sequence[Pair],
             recipe: Recipe) -> list[tuple[float, float]]:
    """(PSNR-Y of bicubic, PSNR-Y of the network) of every pair, in dB.

    Sampled at the recipe's timesteps, the noise that of seed 0. Both are measured as 8-bit images,
    a border as wide as the scale cut off.
    """
    scores = []
    for pair in pairs:
        condition, (height, width) = pad_reflect(pair.condition.numpy()[None],
                                                 network.config.size_multiple)
        noise = gaussian_noise(condition.shape, seed=0)
        image = sample(as_predict(network), condition, recipe.timesteps, recipe.schedule, noise,
                       start=recipe.start)[0, :, :height, :width]
        photo = pair.photo.numpy().transpose(1, 2, 0)
        scores.append((psnr_y(_eight_bit(pair.condition.numpy()), photo, recipe.scale),
                       psnr_y(_eight_bit(image), photo, recipe.scale)))
    return scores


def _eight_bit(image: np.ndarray) -> np.ndarray:
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
