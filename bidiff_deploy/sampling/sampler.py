"""From noise to image: the DDIM update as a pure function, and the loop around it.

DDIM: Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv 2010.02502.
Starting half way: Chung, Sim, Ye, "Come-Closer-Diffuse-Faster", CVPR 2022, arXiv 2112.05146.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import whole_number
from ..errors import UsageError
from .schedule import Schedule

__all__ = ["add_noise", "ddim_update", "first_latent", "pick_timesteps", "sample", "update_factors",
           "visited_alphas"]

Floats = npt.NDArray[np.float32]
Predict = Callable[[Floats, Floats, int], Floats]
OnStep = Callable[[int, int], None]
Alpha = float | np.floating[Any]


def ddim_update(latent: Floats, prediction: Floats, alpha_t: Alpha, alpha_prev: Alpha,
                clip: float | None = 1.0) -> Floats:
    """One deterministic DDIM step: equation (12) of arXiv 2010.02502 with sigma = 0.

    ``latent``: x_t, and ``prediction``: the noise in it, as predicted, float32 arrays of one shape.
    ``alpha_t``, ``alpha_prev``: cumulative alphas of this timestep and the next one to visit (1
    after the last). Returns x at the next timestep, float32. The image that the prediction implies
    is clipped to +-``clip`` (None: not at all); the second term uses the prediction itself, as
    diffusers' DDIMScheduler does by default. Images here are in [0, 1], so the lower bound is
    loose; checkpoints were trained and evaluated with it.
    """
    noise_t, image_t, image_prev, noise_prev = update_factors(alpha_t, alpha_prev)
    image = (latent - noise_t * prediction) / image_t
    if clip is not None:
        np.clip(image, -np.float32(clip), np.float32(clip), out=image)
    previous: Floats = image_prev * image + noise_prev * prediction
    return previous


def update_factors(alpha_t: Alpha, alpha_prev: Alpha
                   ) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """The four numbers of ``ddim_update``, float32: sqrt(1 - alpha_t), sqrt(alpha_t),
    sqrt(alpha_prev), sqrt(1 - alpha_prev)."""
    one = np.float32(1)
    now, then = np.float32(alpha_t), np.float32(alpha_prev)
    return np.sqrt(one - now), np.sqrt(now), np.sqrt(then), np.sqrt(one - then)


def add_noise(image: Floats, noise: Floats, alpha: Alpha) -> Floats:
    """Diffuse an image to cumulative alpha ``alpha``: sqrt(alpha) image + sqrt(1 - alpha) noise.

    Equation (4) of Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020,
    arXiv 2006.11239. float32 arrays of one shape; returns float32.
    """
    kept = np.float32(alpha)
    noisy: Floats = np.sqrt(kept) * image + np.sqrt(np.float32(1) - kept) * noise
    return noisy


def pick_timesteps(timesteps: Sequence[int], steps: int | None = None,
                   start: int | None = None) -> tuple[int, ...]:
    """Which of the listed timesteps (descending) a run visits.

    ``start``: leave out those above it. ``steps``: keep that many of the rest, evenly spaced in
    the list, always with the highest (a run has to begin at the noise of its start) and, if there
    are two or more, the lowest. Raises UsageError if none would be left or fewer than ``steps`` are
    listed.
    """
    if start is not None:
        whole_number("start", start, 0)
    left = [t for t in timesteps if start is None or t <= start]
    if not left:
        raise UsageError(f"start {start} is below every timestep of the list; the lowest is "
                         f"{min(timesteps)}")
    if steps is None:
        return tuple(left)
    steps = whole_number("steps", steps, 1)
    if steps > len(left):
        below = "" if start is None else f" at or below start {start}"
        raise UsageError(f"steps is {steps}, but there are {len(left)} timesteps{below}; ask for "
                         "fewer or export with more")
    last, gaps = len(left) - 1, max(steps - 1, 1)
    return tuple(left[(2 * index * last + gaps) // (2 * gaps)] for index in range(steps))


def visited_alphas(timesteps: Sequence[int], schedule: Schedule) -> list[np.float32]:
    """Cumulative alphas of the timesteps, and 1 after the last."""
    return [schedule.alphas_cumprod[t] for t in timesteps] + [np.float32(1)]


def first_latent(condition: Floats, noise: Floats, alpha: Alpha, start: int | None) -> Floats:
    """The first latent of a loop, at cumulative alpha ``alpha``, float32: ``noise``, or with a
    ``start`` the noised condition."""
    noise = noise.astype(np.float32, copy=False)
    return noise if start is None else add_noise(condition.astype(np.float32, copy=False), noise,
                                                 alpha)


def sample(predict: Predict, condition: Floats, timesteps: Sequence[int], schedule: Schedule,
           noise: Floats, start: int | None = None, on_step: OnStep | None = None, *,
           clamp: bool = True) -> Floats:
    """Run the loop: one prediction and one update at each listed timestep.

    predict     (x_t, condition, timestep) -> predicted noise; float32 (N, 3, H, W) each
    condition   float32 (N, 3, H, W), the upscaled low-resolution image, about [0, 1]
    timesteps   strictly descending; the previous t of each is the next listed one, and after the
                last the cumulative alpha is 1 (diffusers' ``set_alpha_to_one``)
    noise       float32 (N, 3, H, W), N(0, 1)
    start       None: begin at ``timesteps[0]`` from pure noise. T0: begin at the first timestep
                <= T0 from the noised condition (arXiv 2112.05146), which takes fewer steps
    on_step     called with (steps done, steps in all) after every step
    clamp       whether the result is clamped to [0, 1]

    Returns float32 (N, 3, H, W). Raises UsageError for timesteps that are not in the schedule or
    not descending, shapes that differ, or a start below every timestep.
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
