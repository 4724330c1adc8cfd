"""Checks and notes of both kinds of network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...bundle.record import Bundle
from ...checkpoint.record import Checkpoint
from ...errors import UsageError
from ...operators.names import INT8
from .bundle_layers import BundleLayers

OnProgress = Callable[[float, int], None]  # steps done, fractions allowed, and of how many


def refuse_other_network(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """Raises UsageError, which names an option that differs, if the checkpoint's network is not
    the bundle's."""
    if checkpoint.config == bundle.config:
        return
    ours, theirs = bundle.config.to_dict(), checkpoint.config.to_dict()
    name = next((name for name in ours if ours[name] != theirs.get(name)), "its kind")
    raise UsageError(f"{bundle.path} and {checkpoint.name} are of different networks ({name} is "
                     f"{ours.get(name)} and {theirs.get(name)}); give the checkpoint that the "
                     "bundle was exported from, with the same options file")


def in_int8(bundle: Bundle, network: Any, layers: BundleLayers) -> Any:
    """The torch network whose parts a bundle's are: of precision int8 it is ``network`` with the
    bundle's scales and its own rounded weights, so that only rounding may differ."""
    if bundle.precision != INT8:
        return network
    from ...training.networks.quantised import int8_network

    return int8_network(network, bundle.network.int8_layers(bundle.config),
                        layers.constants(bundle.steps[0].timestep))


def source_notes(bundle: Bundle, checkpoint: Checkpoint) -> list[str]:
    """A sentence if the bundle was exported from another file."""
    source = bundle.manifest["source"]
    if source["sha256"] == checkpoint.sha256:
        return []
    return [f"the bundle was made of another file ({source['name']})"]
