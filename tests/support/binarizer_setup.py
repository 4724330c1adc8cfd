"""Small networks of every binarizer, as modules, checkpoints and bundles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bidiff_deploy import load_bundle
from bidiff_deploy.checkpoint.record import Checkpoint, from_latent
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.training.networks.bi_diffsr import BiDiffSR
from support.reference_cases import snr

STEPS = 100


def small(binarizer: str, **options) -> NetworkConfig:
    """Two levels of 8 and 16 channels, attention, a full-precision decoder at the top."""
    return NetworkConfig(**{
        "inner_channel": 8, "norm_groups": 4, "channel_mults": (1, 2), "res_blocks": 1,
        "dropout": 0.0, "image_size": 32, "fp_res": (32,), "attn_res": (16,), "total_step": STEPS,
        "dynamic_group": 2, "binarizer": binarizer, "alignment": 3.0, **options})


def network(config: NetworkConfig, seed: int = 0) -> BiDiffSR:
    """A network whose vectors are no longer what they begin as."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    module = BiDiffSR(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim < 4:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.requires_grad_(False)


def checkpoint(module: BiDiffSR) -> Checkpoint:
    latent = {name: value.detach().numpy().copy() for name, value in module.named_parameters()}
    return from_latent(latent, module.config, name="small", scale=2,
                       schedule={"total_steps": STEPS})


def bundle(module: BiDiffSR, path: Path, timesteps=(70, 10), **options) -> Path:
    export_bundle(checkpoint(module), path, timesteps=timesteps, **options)
    return path


def inputs(height: int = 16, width: int = 24, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((1, 3, height, width)).astype(np.float32),
            rng.random((1, 3, height, width), np.float32))


def predicted(module: BiDiffSR, noisy: np.ndarray, condition: np.ndarray, t: int) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(noisy), torch.from_numpy(condition), t).numpy()


def least_snr(module: BiDiffSR, path: Path, backend: str, steps: Sequence[int] = (70, 10)) -> float:
    """Signal to noise in dB of a bundle's engine against the network, of the worst of ``steps``."""
    noisy, condition = inputs()
    with load_bundle(path, threads=1, backend=backend) as engine:
        return min(snr(predicted(module, noisy, condition, t),
                       engine.predict(noisy, condition, t)) for t in steps)
