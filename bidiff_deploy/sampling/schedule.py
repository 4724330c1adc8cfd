"""The noise schedule: the share of the image in each timestep, and which timesteps to visit.

Training, export and every engine take their alphas from ``Schedule``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import whole_number
from ..errors import UsageError, listed, quoted

__all__ = ["DEFAULT_STEPS", "Schedule", "check_timesteps"]

DEFAULT_STEPS = 50  # of the published sampler


@dataclass(frozen=True)
class Schedule:
    """A DDPM schedule of ``total_steps`` betas from ``beta_start`` to ``beta_end``.

    The defaults are the published network's. ``kind``: only ``"linear"``, as in every published
    BI-DiffSR. Raises UsageError for other values.
    """

    total_steps: int = 2000
    beta_start: float = 1e-6
    beta_end: float = 1e-2
    kind: str = "linear"

    def __post_init__(self) -> None:
        if self.kind != "linear":
            raise UsageError(f"beta schedule {quoted(self.kind)} is not supported; use 'linear'")
        total_steps = whole_number("total_steps of the beta schedule", self.total_steps, 1,
                                   1_000_000)
        for name in ("beta_start", "beta_end"):
            value = getattr(self, name)
            if (not isinstance(value, (int, float, np.floating)) or isinstance(value, bool)
                    or not math.isfinite(value) or not 0 < value < 1):
                raise UsageError(f"{name} of the beta schedule is {quoted(value)}; it must be a "
                                 "number between 0 and 1")
        if self.beta_start > self.beta_end:
            raise UsageError(f"beta_start {self.beta_start!r} of the beta schedule is above its "
                             f"beta_end {self.beta_end!r}; swap them")
        # Plain numbers, so that equal schedules are written alike.
        object.__setattr__(self, "total_steps", total_steps)
        object.__setattr__(self, "beta_start", float(self.beta_start))
        object.__setattr__(self, "beta_end", float(self.beta_end))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schedule:
        """The schedule that ``to_dict`` wrote. Raises UsageError for unknown or missing names."""
        names = set(cls().to_dict())
        if set(values) != names:
            raise UsageError(f"a beta schedule has {', '.join(sorted(names))}; this one has "
                             f"{listed(values) or 'nothing'}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @property
    def betas(self) -> npt.NDArray[np.float32]:
        """The variance that each step adds, float32 (total_steps,)."""
        return _betas(self)

    @property
    def alphas_cumprod(self) -> npt.NDArray[np.float32]:
        """The share of the image's variance that is left at t, float32 (total_steps,), read-only.

        Bit for bit the table of diffusers' DDIMScheduler, with which published checkpoints were
        trained and sampled: torch keeps the running product in float64 and rounds each entry.
        """
        return _alphas_cumprod(self)

    def leading_timesteps(self, steps: int) -> tuple[int, ...]:
        """``steps`` timesteps in descending order, down to 0, by diffusers' "leading" spacing.

        The distance is ``total_steps // steps``, so 50 of 2000 are 1960, 1920, ..., 0. Raises
        UsageError unless 1 <= steps <= total_steps.
        """
        steps = whole_number("steps", steps, 1, self.total_steps)
        stride = self.total_steps // steps
        return tuple(stride * index for index in reversed(range(steps)))

    def check(self, timesteps: Iterable[int]) -> tuple[int, ...]:
        """``check_timesteps`` against this schedule."""
        return check_timesteps(timesteps, self.total_steps)


def check_timesteps(timesteps: Iterable[int], total_steps: int) -> tuple[int, ...]:
    """The timesteps as a tuple of int. Raises UsageError unless there is at least one, all are in
    [0, total_steps), and they are strictly descending.
    """
    given = tuple(whole_number("timestep", value, 0, total_steps - 1) for value in timesteps)
    if not given:
        raise UsageError("the list of timesteps is empty; give at least one")
    for before, after in zip(given, given[1:]):
        if before <= after:
            raise UsageError(f"timesteps must be strictly descending, but {after} follows "
                             f"{before}")
    return given


def _betas(schedule: Schedule) -> npt.NDArray[np.float32]:
    """torch.linspace in float32, bit for bit.

    torch fills it from both ends (the upper half counts down from the end) and computes
    ``start + step * i`` with one rounding (a fused multiply-add). The product of two float32 is
    exact in float64, so float64 arithmetic, rounded once more, gives the same float32.
    """
    steps = schedule.total_steps
    start, end = np.float32(schedule.beta_start), np.float32(schedule.beta_end)
    if steps == 1:
        return np.array([start], np.float32)
    step = np.float64((end - start) / np.float32(steps - 1))
    index = np.arange(steps, dtype=np.float64)
    rising = np.float64(start) + step * index
    falling = np.float64(end) - step * (steps - 1 - index)
    betas: npt.NDArray[np.float64] = np.where(index < steps // 2, rising, falling)
    return betas.astype(np.float32)


@functools.lru_cache(maxsize=8)
def _alphas_cumprod(schedule: Schedule) -> npt.NDArray[np.float32]:
    alphas = np.float32(1) - _betas(schedule)
    table = np.cumprod(alphas.astype(np.float64)).astype(np.float32)
    table.flags.writeable = False  # equal schedules share it
    return table
