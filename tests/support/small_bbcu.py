"""A small feed-forward network of random numbers, made without torch."""

from __future__ import annotations

import numpy as np

from bidiff_deploy.checkpoint.record import Checkpoint, from_latent
from bidiff_deploy.networks import parameters
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig

CONFIG = BbcuConfig(channels=16, blocks=2, scale=2, alignment=20.0)


def small_bbcu(config: BbcuConfig = CONFIG) -> Checkpoint:
    random = np.random.default_rng(0)
    latent = {name: random.normal(0, 0.2, parameter.shape).astype(np.float32)
              for name, parameter in parameters(config).items()}
    return from_latent(latent, config, name="bbcu", scale=config.scale)
