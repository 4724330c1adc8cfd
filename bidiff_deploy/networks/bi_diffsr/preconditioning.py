"""Preconditioning: the network computes only what its inputs do not already tell of the noise.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (NeurIPS 2022,
arXiv 2206.00364, section 5 and table 1) scale a network's input and output so that its target has
unit variance at every noise level. Here the image is known to be near the condition c, the enlarged
low-resolution image: with the deviation d of what is missing, the share a of the image at a
timestep, and x = sqrt(a) (c + d r) + sqrt(1 - a) n, r and n of unit variance, the best linear
estimate of n is the first term of

    prediction = sqrt(1 - a) / v (x - sqrt(a) c) + d sqrt(a / v) F,    v = a d^2 + 1 - a

and the network's output F has to add the rest, of unit variance. With F = 0 sampling returns c; as
published, the noise must be copied to four digits at early timesteps before it returns anything
near. F has unit variance where x is a noised photo; at the low timesteps of a loop that starts from
the noised condition, more.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from ...sampling.schedule import Schedule

__all__ = ["SHARES", "shares"]

SHARES = ("noisy_share", "condition_share", "output_share")


@functools.lru_cache(maxsize=8)
def shares(total_step: int, deviation: float) -> npt.NDArray[np.float32]:
    """Of every timestep, how much of x, of c and of F is added: float32 (total_step, 3), read-only.

    ``deviation``: d, for images in [0, 1]. The schedule is the published one.
    """
    alpha = Schedule(total_step).alphas_cumprod.astype(np.float64)
    variance = alpha * deviation ** 2 + 1 - alpha
    noisy = np.sqrt(1 - alpha) / variance
    columns = [noisy, -noisy * np.sqrt(alpha), deviation * np.sqrt(alpha / variance)]
    found = np.stack(columns, axis=1).astype(np.float32)
    found.flags.writeable = False
    return found
