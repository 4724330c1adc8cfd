"""ResShift: a schedule between a degraded latent and a clean one, and the loops through it.

Yue, Wang, Loy, "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual
Shifting", NeurIPS 2023, arXiv 2307.12348. A latent x_t is x0 + eta_t (y - x0) + kappa sqrt(eta_t)
n: the share eta of the residual grows from almost 0 to almost 1, y is the encoded low-resolution
image, and the network predicts x0. The deterministic step is that of Wang et al., "SinSR", CVPR
2024, arXiv 2311.14760. With one step both samplers return the network's x0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import whole_number
from ..errors import UsageError, listed, quoted
from .sampler import OnStep
from .schedule import check_timesteps

__all__ = ["ANCESTRAL", "DETERMINISTIC", "MAX_STEPS", "SAMPLERS", "ResShiftSchedule",
           "ancestral_step", "check_sampler", "deterministic_step", "draws", "first_latent",
           "sample"]

Floats = npt.NDArray[np.float32]
Predict = Callable[[Floats, int], Floats]
ANCESTRAL, DETERMINISTIC = "ancestral", "deterministic"
SAMPLERS = (ANCESTRAL, DETERMINISTIC)
MAX_STEPS = 1000


@dataclass(frozen=True)
class ResShiftSchedule:
    """The published exponential schedule: sqrt(eta_t) = s0 exp(ln(etas_end / s0) (t / (T-1))^p).

    total_steps      T
    kappa            standard deviation of the noise at eta = 1
    power            p
    etas_end         sqrt(eta) of the last step (the published name)
    min_noise_level  s0 is the smaller of this and this divided by kappa

    The defaults are those of real-world super-resolution. Raises UsageError for other values than
    numbers in range.
    """

    total_steps: int = 15
    kappa: float = 2.0
    power: float = 0.3
    etas_end: float = 0.99
    min_noise_level: float = 0.04

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_steps", whole_number(
            "total_steps of the ResShift schedule", self.total_steps, 2, MAX_STEPS))
        for name in ("kappa", "power", "etas_end", "min_noise_level"):
            value = getattr(self, name)
            highest = 1.0 if name in ("etas_end", "min_noise_level") else 100.0
            if (not isinstance(value, (int, float, np.floating)) or isinstance(value, bool)
                    or not math.isfinite(value) or not 0 < value <= highest):
                raise UsageError(f"{name} of the ResShift schedule is {quoted(value)}; it must be "
                                 f"a number above 0, at most {highest:g}")
            object.__setattr__(self, name, float(value))
        if self._first >= self.etas_end:
            raise UsageError(f"min_noise_level {self.min_noise_level!r} of the ResShift schedule "
                             f"begins above its etas_end {self.etas_end!r}; lower it")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResShiftSchedule:
        """The schedule that ``to_dict`` wrote. Raises UsageError for unknown or missing names."""
        names = set(cls().to_dict())
        if set(values) != names:
            raise UsageError(f"a ResShift schedule has {', '.join(sorted(names))}; this one has "
                             f"{listed(values) or 'nothing'}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @property
    def _first(self) -> float:
        return min(self.min_noise_level / self.kappa, self.min_noise_level)

    @property
    def sqrt_etas(self) -> npt.NDArray[np.float64]:
        """sqrt(eta_t), float64 (total_steps,), ascending, read-only."""
        return _sqrt_etas(self)

    def input_scale(self, timestep: int) -> np.float32:
        """What x_t is multiplied by before the network sees it: 1 / sqrt(kappa^2 eta_t + 1)."""
        eta = self.sqrt_etas[timestep] ** 2
        scale: np.float32 = np.float32(1) / np.sqrt(np.float32(eta * self.kappa ** 2 + 1))
        return scale

    def all_timesteps(self) -> tuple[int, ...]:
        """T - 1 to 0."""
        return tuple(reversed(range(self.total_steps)))

    def spaced_timesteps(self, steps: int) -> tuple[int, ...]:
        """``steps`` timesteps, descending and evenly spaced, from T - 1 on; the last is 0 unless
        there is one. Raises UsageError unless 1 <= steps <= T."""
        steps = whole_number("steps", steps, 1, self.total_steps)
        last, gaps = self.total_steps - 1, max(steps - 1, 1)
        return tuple(last - (2 * index * last + gaps) // (2 * gaps) for index in range(steps))

    def check(self, timesteps: Iterable[int]) -> tuple[int, ...]:
        """``check_timesteps`` against this schedule."""
        return check_timesteps(timesteps, self.total_steps)


def check_sampler(sampler: Any) -> str:
    """``sampler`` if it is one of SAMPLERS. Raises UsageError."""
    if sampler not in SAMPLERS:
        raise UsageError(f"sampler {quoted(sampler)} is not known; use {' or '.join(SAMPLERS)}")
    return str(sampler)


def draws(sampler: str, steps: int) -> int:
    """How many maps of noise a loop of ``steps`` steps reads: one to begin with, and with the
    ancestral sampler one after each step but the last."""
    return steps if sampler == ANCESTRAL else 1


def first_latent(schedule: ResShiftSchedule, y: Floats, noise: Floats, timestep: int) -> Floats:
    """The latent that a loop begins with at ``timestep``: y + kappa sqrt(eta) noise, float32."""
    latent: Floats = y + np.float32(schedule.kappa * schedule.sqrt_etas[timestep]) * noise
    return latent


def ancestral_step(schedule: ResShiftSchedule, latent: Floats, x0: Floats, timestep: int,
                   following: int | None, noise: Floats | None = None) -> Floats:
    """The latent at the timestep ``following``, drawn from q(x_s | x_t, x0); equation 7 of the
    paper.

    ``following``: the next timestep to visit; None: the end, where the result is ``x0``. ``noise``:
    N(0, 1) of the latent's shape; needed unless this is the end. Coefficients are float64, rounded
    once to float32.
    """
    eta, before = _eta(schedule, timestep), _eta(schedule, following)
    kept, new = np.float32(before / eta), np.float32((eta - before) / eta)
    mean: Floats = kept * latent + new * x0
    if following is None:
        return mean
    assert noise is not None, "only the last step draws no noise"
    deviation = schedule.kappa * math.sqrt(before * (eta - before) / eta)
    drawn: Floats = mean + np.float32(deviation) * noise
    return drawn


def deterministic_step(schedule: ResShiftSchedule, latent: Floats, x0: Floats, y: Floats,
                       timestep: int, following: int | None) -> Floats:
    """The latent at the timestep ``following`` with the noise that ``latent`` has: x0 + eta_s
    (y - x0) + sqrt(eta_s / eta_t) (x_t - x0 - eta_t (y - x0)), as k x0 + m x_t + j y.

    Arguments as in ``ancestral_step``.
    """
    eta, before = _eta(schedule, timestep), _eta(schedule, following)
    m, cross = math.sqrt(before / eta), math.sqrt(before * eta)
    k, j = 1 - before + cross - m, before - cross
    result: Floats = np.float32(k) * x0 + np.float32(m) * latent + np.float32(j) * y
    return result


def sample(predict: Predict, y: Floats, timesteps: Sequence[int], schedule: ResShiftSchedule,
           sampler: str, noise: Floats, on_step: OnStep | None = None) -> Floats:
    """Run the loop: one prediction of x0 and one step at each listed timestep.

    predict    (the scaled latent, timestep) -> x0; float32 (N, C, H, W) each
    y          float32 (N, C, H, W), the encoded low-resolution image
    timesteps  strictly descending
    sampler    one of SAMPLERS
    noise      float32 (N, C * ``draws``, H, W), N(0, 1): channels of the first latent, then of
               each step
    on_step    called with (steps done, steps in all) after every step

    Returns the clean latent, float32 (N, C, H, W). Raises UsageError for timesteps that are not in
    the schedule or not descending, an unknown sampler, and shapes that differ.
    """
    timesteps = schedule.check(timesteps)
    count = draws(check_sampler(sampler), len(timesteps))
    channels = y.shape[1]
    wanted = (y.shape[0], channels * count, *y.shape[2:])
    if noise.shape != wanted:
        raise UsageError(f"noise has shape {noise.shape}, but the loop reads {count} maps of the "
                         f"latent's {y.shape}; give one of shape {wanted}")
    latent = first_latent(schedule, y, noise[:, :channels], timesteps[0])
    for index, timestep in enumerate(timesteps):
        following = timesteps[index + 1] if index + 1 < len(timesteps) else None
        x0 = predict(latent * schedule.input_scale(timestep), timestep)
        if sampler == DETERMINISTIC:
            latent = deterministic_step(schedule, latent, x0, y, timestep, following)
        else:
            drawn = noise[:, (index + 1) * channels:(index + 2) * channels]
            latent = ancestral_step(schedule, latent, x0, timestep, following, drawn)
        if on_step is not None:
            on_step(index + 1, len(timesteps))
    return latent


def _eta(schedule: ResShiftSchedule, timestep: int | None) -> float:
    """eta at a timestep; 0 at the end."""
    return 0.0 if timestep is None else float(schedule.sqrt_etas[timestep]) ** 2


@functools.lru_cache(maxsize=8)
def _sqrt_etas(schedule: ResShiftSchedule) -> npt.NDArray[np.float64]:
    first, last = schedule._first, schedule.total_steps - 1
    base = math.exp(math.log(schedule.etas_end / first) / last)
    places = np.linspace(0, 1, schedule.total_steps) ** schedule.power * last
    table: npt.NDArray[np.float64] = base ** places * first
    table.flags.writeable = False  # equal schedules share it
    return table
