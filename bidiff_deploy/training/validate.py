"""Sampling with the torch network, and how well it restores photos."""

from __future__ import annotations

from typing import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Pair

Predict = Callable[[Tensor, Tensor, int], Tensor]


def alphas_cumprod(total_step: int, beta_start: float, beta_end: float) -> Tensor:
    """Table of the linear schedule, float64 (total_step,)."""
    betas = torch.linspace(beta_start, beta_end, total_step, dtype=torch.float32)
    return torch.cumprod((1 - betas).double(), 0).float().double()


def add_noise(image: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """x_t = sqrt(alpha) image + sqrt(1 - alpha) noise; ``alpha`` is alphas_cumprod[t]."""
    return alpha**0.5 * image + (1 - alpha) ** 0.5 * noise


def ddim_update(x: Tensor, prediction: Tensor, alpha: float, alpha_next: float) -> Tensor:
    """One deterministic DDIM step (Song et al., arXiv 2010.02502, equation 12, eta 0).

    The estimate of the image is clipped to [-1, 1]; ``alpha_next`` is 1 after the last step.
    """
    image = ((x - (1 - alpha) ** 0.5 * prediction) / alpha**0.5).clamp(-1, 1)
    return add_noise(image, prediction, alpha_next)


def sample_from_condition(predict: Predict, condition: Tensor, noise: Tensor,
                          timesteps: Sequence[int], table: Tensor,
                          stop: int | None = None) -> Tensor:
    """DDIM from the condition noised to the first timestep (Chung et al., arXiv 2112.05146).

    ``condition``, ``noise``: (N, 3, H, W). ``stop``: how many of the steps to take (default all);
    before the last the result is x_t of the next timestep, after it the image, not clamped to 0.
    """
    alphas = [float(table[t]) for t in timesteps] + [1.0]
    x = add_noise(condition, noise, alphas[0])
    for index, t in enumerate(timesteps[:stop]):
        x = ddim_update(x, predict(x, condition, t), alphas[index], alphas[index + 1])
    return x


def luma(image: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in [16, 235] from RGB in [0, 1]: (N, 3, H, W) -> (N, H, W)."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=image.dtype)
    return torch.einsum("nchw,c->nhw", image, weights) + 16


def psnr_y(image: Tensor, reference: Tensor, border: int) -> float:
    """PSNR in dB on Y of (1, 3, H, W) images in [0, 1], as 8-bit images, ``border`` cut off."""
    def prepared(x: Tensor) -> Tensor:
        y = luma(x.clamp(0, 1).mul(255).round().div(255).double())
        return y[:, border:y.shape[1] - border, border:y.shape[2] - border]

    error = (prepared(image) - prepared(reference)).square().mean()
    return float(10 * torch.log10(255**2 / error))


@torch.no_grad()
def validate(predict: Predict, pairs: Sequence[Pair], timesteps: Sequence[int], table: Tensor,
             scale: int, multiple: int) -> list[tuple[float, float]]:
    """(PSNR-Y of the condition, PSNR-Y of the sample) of every pair; noise of a fixed seed."""
    scores = []
    for pair in pairs:
        photo, condition = pair.photo[None].float().div(255), pair.condition[None]
        height, width = condition.shape[2:]
        padded = F.pad(condition, (0, -width % multiple, 0, -height % multiple), mode="reflect")
        noise = torch.randn(padded.shape, generator=torch.Generator().manual_seed(0))
        image = sample_from_condition(predict, padded, noise, timesteps, table)
        scores.append((psnr_y(condition, photo, scale),
                       psnr_y(image[:, :, :height, :width], photo, scale)))
    return scores
