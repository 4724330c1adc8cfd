"""The networks that a checkpoint or bundle may contain: one folder each, and the table of them.

    base       ``Network``, the record that each folder fills
    options    reading a network's options from a mapping
    costs      counts of parameters and multiply-accumulates, filled by each network
    bi_diffsr  BI-DiffSR, a noise predictor
    bbcu       BBCU-M, which runs once
    hi_mamba   Hi-Mamba, which runs once
    resshift   what latent networks of the ResShift family share
    dit_sr     DiT-SR, a latent network
    resshift_unet  ResShift's UNet: SinSR and BiMaCoSR, latent networks

Nothing here needs torch; the torch modules are in ``training.networks``.
"""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError, quoted
from .base import Config, Network, Parameter, Shapes
from .bbcu.network import Bbcu
from .bi_diffsr.network import BiDiffSr
from .dit_sr.network import DitSr
from .hi_mamba.network import HiMamba
from .resshift_unet.network import BiMaCoSr, ResShiftUnet

__all__ = ["DEFAULT", "NETWORKS", "find_network", "matching_network", "network_of", "parameters"]

DEFAULT = BiDiffSr.name  # of files that name no network, which early formats did not do
NETWORKS: dict[str, Network] = {network.name: network for network in (
    BiDiffSr(), Bbcu(), HiMamba(), DitSr(), ResShiftUnet(), BiMaCoSr())}


def find_network(name: Any, origin: str) -> Network:
    """The network called ``name``. Raises CheckpointError for an unknown name."""
    if not isinstance(name, str) or name not in NETWORKS:
        raise CheckpointError(f"{origin}: model {quoted(str(name))} is not known; known are "
                              f"{', '.join(NETWORKS)}")
    return NETWORKS[name]


def matching_network(shapes: Shapes) -> Network:
    """The network whose published keys these are. If none matches, the default one, whose
    ``recognise`` then reports what is missing."""
    return next((network for network in NETWORKS.values() if network.matches(shapes)),
                NETWORKS[DEFAULT])


def network_of(config: Config) -> Network:
    """The record of the network that ``config`` belongs to."""
    return NETWORKS[config.network]


def parameters(config: Config) -> dict[str, Parameter]:
    """``{name: Parameter}`` of every parameter, in order of execution."""
    return network_of(config).parameters(config)
