"""Weights of torch networks: to and from published keys, and from any checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..checkpoint.options import Options
from ..checkpoint.published_keys import from_published, to_published
from ..checkpoint.read import read_checkpoint
from ..checkpoint.record import Checkpoint
from ..checkpoint.tensor_files import read_state
from ..errors import CheckpointError
from ..networks import network_of
from ..networks.bi_diffsr.binarizers import NONE
from ..networks.bi_diffsr.config import NetworkConfig
from .networks import make_module

__all__ = ["latent_weights", "load_initial", "load_latent", "load_network", "load_published",
           "published_state", "torch_network"]


def published_state(module: nn.Module, config: Any) -> dict[str, Tensor]:
    """Copies of a network's parameters, float32 on the CPU, with published keys and shapes, and the
    options that no shape shows."""
    named = {name: value.detach().float().cpu().numpy()
             for name, value in module.named_parameters()}
    state = {key: torch.from_numpy(np.array(value, order="C"))
             for key, value in to_published(named, config).items()}
    options = network_of(config).options_as_tensors(config)
    return {**state, **{name: torch.tensor(value) for name, value in options.items()}}


def latent_weights(state: Mapping[str, Tensor], config: Any,
                   origin: str = "checkpoint") -> dict[str, npt.NDArray[np.float32]]:
    """``{name: array}`` from a state of ``published_state``. Raises CheckpointError, which names
    ``origin``, for unknown keys or other shapes."""
    options = network_of(config).options_as_tensors(config)
    return from_published({key: value.numpy() for key, value in state.items()
                           if key not in options}, config, origin)


def load_published(module: nn.Module, state: Mapping[str, Tensor], config: Any) -> None:
    """The inverse of ``published_state``. Raises CheckpointError for unknown keys or shapes."""
    load_latent(module, latent_weights(state, config))


def load_latent(module: nn.Module, latent: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Copy float parameters, named as in this project, into a network."""
    module.load_state_dict({name: torch.from_numpy(np.array(value, np.float32))
                            for name, value in latent.items()})


def torch_network(checkpoint: Checkpoint) -> nn.Module:
    """The network of a checkpoint, float32, with gradients."""
    network = make_module(checkpoint.config)
    load_latent(network, checkpoint.latent())
    return network


def load_network(path: str | Path, options: Options | None = None) -> nn.Module:
    """A network from a checkpoint: published, of a training run, or packed.

    A packed checkpoint has only signs and magnitudes: its latent weights become +-alpha, which
    binarise to the same values. Raises CheckpointError as ``read_checkpoint`` does.
    """
    found = read_checkpoint(path, options)
    state, metadata, _ = read_state(Path(path))
    if "bidiff" in metadata:
        return torch_network(found)
    names = found.network.options_as_tensors(found.config)
    network = make_module(found.config)
    load_latent(network, from_published({key: value for key, value in state.items()
                                         if key not in names}, found.config, str(path)))
    return network


def load_initial(network: nn.Module, path: Path, shown: str, scale: int) -> None:
    """Load the checkpoint at ``path``, called ``shown`` in errors, into ``network``.

    Dropout may differ. From another binarizer, other bits, or a full-precision network, the tensors
    that both have in one shape are taken; of a network of several scales, for one of one, those of
    ``scale``. Raises CheckpointError if other options differ.
    """
    found = load_network(path)
    config: Any = found.config
    wanted: Any = network.config
    record = network_of(config)
    if (scales := record.scales(config)) and not network_of(wanted).scales(wanted):
        if scale not in scales:
            raise CheckpointError(f"{shown} upscales by {', '.join(map(str, scales))}, not by "
                                  f"{scale}; begin with a network that does")
        config, latent = record.at_scale(config, {
            name: value.detach().numpy() for name, value in found.named_parameters()}, scale)
        found = make_module(config)
        load_latent(found, latent)
    if _compared(config, wanted) != _compared(wanted, config):
        raise CheckpointError(f"{shown}: its network options differ from the recipe's; make them "
                              "equal")
    ours = network.state_dict()
    network.load_state_dict({name: value for name, value in found.state_dict().items()
                             if name in ours and value.shape == ours[name].shape}, strict=False)


def _compared(config: Any, other: Any) -> Any:
    """The options of ``config`` that must be those of ``other``."""
    if not isinstance(config, NetworkConfig) or not isinstance(other, NetworkConfig):
        return config
    binarizer = config.binarizer if config.binarizer == other.binarizer else NONE
    return dataclasses.replace(config, dropout=0.0, binarizer=binarizer, weight_bits=1,
                               activation_bits=1)
