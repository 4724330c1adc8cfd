"""The base class of diffusion models on a GPU: the loop and its steps' constants."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from ...bundle.record import NoisePredictorBundle
from ...bundle.step_graphs import StepGraphs
from ...errors import EngineError
from ...sampling import sampler
from ...sampling.sampler import OnStep
from ..noise_predictor import NoisePredictor
from .engine import Buffers, GpuEngine
from .step_rows import StepRows

__all__ = ["Factors", "GpuNoisePredictor", "Step"]

# The identity update: the step only predicts.
PREDICT = (np.float32(0), np.float32(1), np.float32(1), np.float32(0))
Factors = Sequence[np.float32]


class Step(Buffers, Protocol):
    """The buffers of one shape of a step."""

    def load(self, latent: np.ndarray, condition: np.ndarray) -> None:
        """Copy the loop's first latent and its condition to the device."""

    def run(self, row: np.ndarray) -> None:
        """One step with the constants of a row of ``StepRows``."""

    def prediction(self) -> np.ndarray:
        """The prediction of the last run, float32, copied to the host."""

    def latent(self) -> np.ndarray:
        """The latent after the last run's update, float32, copied to the host."""


_Step = TypeVar("_Step", bound=Step)


class GpuNoisePredictor(GpuEngine[_Step], NoisePredictor):
    """A diffusion model with one set of buffers on the device for each shape."""

    what = "a step"

    def __init__(self, bundle: NoisePredictorBundle, graphs: StepGraphs, *,
                 rows_apart: bool = False) -> None:
        """``graphs``: of the bundle; ``rows_apart``: whether the runtime takes the steps' constants
        as ``step_rows.rows_apart`` returns them. Starts the device's thread."""
        super().__init__(bundle)
        self._rows = StepRows(graphs, self.timesteps[0], apart=rows_apart)

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        def one(step: Step) -> np.ndarray:
            step.load(noisy, condition)
            step.run(self._rows.row(timestep, PREDICT))
            return step.prediction()

        with self._alone():
            return self._with_step(noisy.shape, one)

    def _loop(self, condition: np.ndarray, noise: np.ndarray, timesteps: tuple[int, ...],
              start: int | None, on_step: OnStep | None) -> np.ndarray:
        """``sampler.sample`` on the device; only the last latent is copied to the host."""
        alphas = [float(alpha) for alpha in sampler.visited_alphas(timesteps, self.schedule)]
        factors = [sampler.update_factors(*pair) for pair in zip(alphas, alphas[1:])]
        with self._alone():
            first = sampler.first_latent(condition, noise, alphas[0], start)
            latent = self._run_loop(first, condition, timesteps, factors, on_step)
        # A value that is not finite in any step is not finite here: each update adds a multiple of
        # the prediction.
        if not np.isfinite(latent).all():
            raise EngineError("the loop's result contains values that are not finite; check the "
                              "bundle")
        return latent.clip(np.float32(0), np.float32(1))

    def _run_loop(self, first: np.ndarray, condition: np.ndarray, timesteps: tuple[int, ...],
                  factors: Sequence[Factors], on_step: OnStep | None) -> np.ndarray:
        """The latent after all steps, not clipped."""
        shape = condition.shape
        self._with_step(shape, lambda step: step.load(first, condition))
        for index, timestep in enumerate(timesteps):
            self._with_step(shape, functools.partial(self._run_step, timestep, factors[index]))
            if on_step is not None:
                on_step(index + 1, len(timesteps))
        return self._with_step(shape, lambda step: step.latent())

    def _run_step(self, timestep: int, factors: Factors, step: _Step) -> None:
        step.run(self._rows.row(timestep, factors))
