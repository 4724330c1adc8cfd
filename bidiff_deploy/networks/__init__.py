"""The networks that a checkpoint or bundle may hold: one folder each, and this table of them.

``base.Network`` is the record that each fills. Nothing here needs torch; the torch modules are in
``training.networks``.
"""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from .base import Config, Network, Parameter, Shapes
from .bbcu.network import Bbcu
from .bi_diffsr.network import BiDiffSr

__all__ = ["DEFAULT", "NETWORKS", "find_network", "matching_network", "network_of", "parameters"]

DEFAULT = BiDiffSr.name  # of files that name no network: their formats are older than the second
NETWORKS: dict[str, Network] = {network.name: network for network in (BiDiffSr(), Bbcu())}


def find_network(name: Any, origin: str) -> Network:
    """The network called ``name``. Raises CheckpointError for an unknown name."""
    if not isinstance(name, str) or name not in NETWORKS:
        raise CheckpointError(f"{origin}: model {str(name)[:60]!r} is not known; known are "
                              f"{', '.join(NETWORKS)}")
    return NETWORKS[name]


def matching_network(shapes: Shapes) -> Network:
    """The network that published keys look like. Where none matches it is the default one, whose
    ``recognise`` says what is missing."""
    return next((network for network in NETWORKS.values() if network.matches(shapes)),
                NETWORKS[DEFAULT])


def network_of(config: Config) -> Network:
    """The network whose options ``config`` are."""
    return NETWORKS[config.network]


def parameters(config: Config) -> dict[str, Parameter]:
    """``{name: Parameter}`` of every parameter of a network, in order of execution."""
    return network_of(config).parameters(config)
