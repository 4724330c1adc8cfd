"""Times an engine's steps on its device, and makes random inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

_UPDATE = (np.float32(0), np.float32(1), np.float32(1), np.float32(0))  # any values do
_WARM = 4  # runs: a step's graphs are captured in the first three


def random_images(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Latent and condition, float32 (batch, 3, size, size)."""
    random = np.random.default_rng(0)
    return (random.standard_normal((batch, 3, size, size)).astype(np.float32),
            random.random((batch, 3, size, size)).astype(np.float32))


def time_steps(engine: Any, timestep: int, batch: int, size: int,
               steps: int) -> Callable[[], float]:
    """A function that returns the milliseconds of a step of a backend on a GPU.

    It runs ``steps`` steps in a row on the device, copying the row of constants each time, as in a
    loop, and one latent back at the end. The engine is warm: graphs are captured.
    """
    noisy, condition = random_images(batch, size)
    engine.predict(noisy, condition, timestep)
    row = engine._rows.row(timestep, _UPDATE)

    def begin(step: Any) -> None:
        step.load(noisy, condition)
        for _ in range(_WARM):
            step.run(row)
        step.latent()

    def measure(step: Any) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step.run(row)
        step.latent()  # waits, and copies one latent
        return 1e3 * (time.perf_counter() - start) / steps

    engine._with_step(noisy.shape, begin)
    return lambda: float(engine._with_step(noisy.shape, measure))
