"""An engine without a network: it knows the noise exactly, because it knows the image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from bidiff_deploy.engines.noise_predictor import NoisePredictor
from bidiff_deploy.networks import network_of
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.sampling.schedule import Schedule


class FakeEngine(NoisePredictor):
    """The image behind every latent is the condition itself, so ``sample`` returns it, clipped."""

    def __init__(self, timesteps=(180, 120, 60, 0), default_start=None, scale=2,
                 size_multiple=8) -> None:
        config = NetworkConfig(inner_channel=16, norm_groups=4, fp_res=(), channel_mults=tuple(
            1 << level for level in range(size_multiple.bit_length())))
        super().__init__(SimpleNamespace(
            scale=scale, schedule=Schedule(200), timesteps=timesteps,
            default_start=default_start, noiseless=False, config=config, network=network_of(config),
            precision="float32"))
        self.calls: list[tuple[int, tuple[int, ...]]] = []
        self.closings = 0

    @property
    def description(self) -> str:
        return "fake"

    def _predict(self, noisy: np.ndarray, condition: np.ndarray, timestep: int) -> np.ndarray:
        self.calls.append((timestep, noisy.shape))
        alpha = self.schedule.alphas_cumprod[timestep]
        return (noisy - np.sqrt(alpha) * condition) / np.sqrt(1 - alpha)

    def _close(self) -> None:
        self.closings += 1
