"""Small BBCU-M networks with weights that use every parameter, for several test files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from bidiff_deploy.checkpoint.record import Checkpoint, from_latent
from bidiff_deploy.export.write import export_bundle
from bidiff_deploy.networks.bbcu.architecture import BbcuConfig
from bidiff_deploy.training.networks.bbcu import Bbcu

# 40 channels: two words a tap, the second not full.
SMALL = {scale: BbcuConfig(channels=40, blocks=2, scale=scale, alignment=20.0)
         for scale in (2, 3, 4)}
# Without binary upsampler, and with the first layer of the body in full precision.
DIRECT = BbcuConfig(channels=40, blocks=2, scale=3, alignment=20.0, tail="direct", float_layers=1)
BORDERED = dataclasses.replace(DIRECT, scale=2, border=3)
EVERY = {**{f"x{scale}": config for scale, config in SMALL.items()}, "direct": DIRECT,
         "bordered": BORDERED}


def random_network(config: BbcuConfig, seed: int = 0) -> Bbcu:
    """A network whose thresholds and RPReLUs are not neutral."""
    torch.manual_seed(seed)
    network = Bbcu(config).eval().requires_grad_(False)
    for name, value in network.named_parameters():
        if value.ndim == 2:
            value += 0.3 * torch.randn_like(value)
        elif name.startswith(("body", "up", "refine")):
            value *= 5
    return network


def checkpoint_of(network: Bbcu) -> Checkpoint:
    latent = {name: value.detach().numpy() for name, value in network.named_parameters()}
    return from_latent(latent, network.config, name="network", scale=network.config.scale)


def bundle_of(network: Bbcu, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"x{network.config.scale}.bundle"
    export_bundle(checkpoint_of(network), path, overwrite=True)
    return path
