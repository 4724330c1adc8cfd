"""From noise to image: the DDIM update as one pure function, and the loop around it.

DDIM: Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv 2010.02502.
A start half way: Chung, Sim, Ye, "Come-Closer-Diffuse-Faster", CVPR 2022, arXiv 2112.05146.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import UsageError
from .schedule import Schedule

__all__ = ["add_noise", "ddim_update", "first_latent", "pick_timesteps", "sample", "update_factors",
           "visited_alphas"]

Predict = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
OnStep = Callable[[int, int], None]


def ddim_update(latent: np.ndarray, prediction: np.ndarray, alpha_t: float, alpha_prev: float,
                clip: float | None = 1.0) -> np.ndarray:
    """One deterministic DDIM step: equation (12) of arXiv 2010.02502 with sigma = 0.

    ``latent``: x_t, and ``prediction``: the noise in it that the network saw, float32 arrays of
    one shape. ``alpha_t``, ``alpha_prev``: cumulative alphas of this timestep and the next one to
    visit (1 after the last). Returns x at that timestep, float32. The image that the prediction
    implies is clipped to +-``clip`` (None: not at all), while the noise of the second term stays
    the prediction itself, as diffusers' DDIMScheduler does by default. Images here lie in [0, 1],
    so the lower bound is loose; checkpoints were trained and evaluated with it.
    """
    noise_t, image_t, image_prev, noise_prev = update_factors(alpha_t, alpha_prev)
    image = (latent - noise_t * prediction) / image_t
    if clip is not None:
        np.clip(image, -np.float32(clip), np.float32(clip), out=image)
    return image_prev * image + noise_prev * prediction


def update_factors(alpha_t: float, alpha_prev: float
                   ) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """The four numbers of ``ddim_update``, float32: sqrt(1 - alpha_t), sqrt(alpha_t),
    sqrt(alpha_prev), sqrt(1 - alpha_prev)."""
    one = np.float32(1)
    alpha_t, alpha_prev = np.float32(alpha_t), np.float32(alpha_prev)
    return np.sqrt(one - alpha_t), np.sqrt(alpha_t), np.sqrt(alpha_prev), np.sqrt(one - alpha_prev)


def add_noise(image: np.ndarray, noise: np.ndarray, alpha: float) -> np.ndarray:
    """Diffuse an image to cumulative alpha ``alpha``: sqrt(alpha) image + sqrt(1 - alpha) noise.

    Equation (4) of Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020,
    arXiv 2006.11239. float32 arrays of one shape; returns float32.
    """
    alpha = np.float32(alpha)
    return np.sqrt(alpha) * image + np.sqrt(np.float32(1) - alpha) * noise


def pick_timesteps(timesteps: Sequence[int], steps: int | None = None,
                   start: int | None = None) -> tuple[int, ...]:
    """Which of the listed timesteps (descending) a run visits.

    ``start``: leave out those above it. ``steps``: keep that many of the rest, evenly spaced in
    the list, the highest always among them (a run has to begin at the noise its start has) and
    the lowest as well if there are two or more. Raises UsageError if nothing would be left or
    fewer than ``steps`` are listed.
    """
    if start is not None and (not isinstance(start, (int, np.integer)) or isinstance(start, bool)):
        raise UsageError(f"start is {start!r}; it must be a timestep or None")
    left = [t for t in timesteps if start is None or t <= start]
    if not left:
        raise UsageError(f"start {start} is below every timestep of the list; the lowest is "
                         f"{min(timesteps)}")
    if steps is None:
        return tuple(left)
    if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool) or steps < 1:
        raise UsageError(f"steps is {steps!r}; it must be a whole number from 1")
    if steps > len(left):
        below = "" if start is None else f" at or below start {start}"
        raise UsageError(f"steps is {steps}, but there are {len(left)} timesteps{below}; ask for "
                         "fewer or export with more")
    last, gaps = len(left) - 1, max(int(steps) - 1, 1)
    return tuple(left[(2 * index * last + gaps) // (2 * gaps)] for index in range(int(steps)))


def visited_alphas(timesteps: Sequence[int], schedule: Schedule) -> list[np.float32]:
    """Cumulative alphas of the timesteps, and 1 after the last."""
    return [schedule.alphas_cumprod[t] for t in timesteps] + [np.float32(1)]


def first_latent(condition: np.ndarray, noise: np.ndarray, alpha: float,
                 start: int | None) -> np.ndarray:
    """What a loop begins with at cumulative alpha ``alpha``, float32: ``noise``, or with a
    ``start`` the condition noised."""
    noise = noise.astype(np.float32, copy=False)
    return noise if start is None else add_noise(condition.astype(np.float32, copy=False), noise,
                                                 alpha)


def sample(predict: Predict, condition: np.ndarray, timesteps: Sequence[int], schedule: Schedule,
           noise: np.ndarray, start: int | None = None, on_step: OnStep | None = None, *,
           clamp: bool = True) -> np.ndarray:
    """Run the loop: one prediction and one update at each listed timestep.

    predict     (x_t, condition, timestep) -> predicted noise; float32 (N, 3, H, W) each
    condition   float32 (N, 3, H, W), the upscaled low-resolution image, about [0, 1]
    timesteps   strictly descending; the previous t of each is the next listed one, and after the
                last the cumulative alpha is 1 (diffusers' ``set_alpha_to_one``)
    noise       float32 (N, 3, H, W), N(0, 1)
    start       None: begin at ``timesteps[0]`` from pure noise. T0: begin at the first timestep
                <= T0 from the condition, noised to it (arXiv 2112.05146): fewer steps, and
                nothing to invent that the condition already has
    on_step     called with (steps done, steps in all) after every step
    clamp       whether the result is clamped to [0, 1]

    Returns float32 (N, 3, H, W). Raises UsageError for timesteps that are not a descending list
    of the schedule's, shapes that differ, or a start below every timestep.
    """
    timesteps = pick_timesteps(schedule.check(timesteps), start=start)
    if condition.shape != noise.shape:
        raise UsageError(f"noise has shape {noise.shape}, but the condition has "
                         f"{condition.shape}; give one of the condition's shape")
    alphas = visited_alphas(timesteps, schedule)
    latent = first_latent(condition, noise, alphas[0], start)
    for index, timestep in enumerate(timesteps):
        prediction = predict(latent, condition, timestep)
        latent = ddim_update(latent, prediction, alphas[index], alphas[index + 1])
        if on_step is not None:
            on_step(index + 1, len(timesteps))
    return np.clip(latent, np.float32(0), np.float32(1)) if clamp else latent
