"""Training of a feed-forward network: L1 between the picture it makes and the photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint.record import from_latent
from ..checkpoint.read import read_checkpoint
from ..checkpoint.packed import write_packed
from ..errors import CheckpointError
from ..checkpoint.published_keys import from_published, to_published
from ..images.resample import to_unit
from .networks.bbcu import Bbcu
from .data import LOW, Pair
from .draws import Draws
from .recipe import Recipe

__all__ = ["FeedForwardTask", "enlarged"]


class _L1(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.network(low) - high).abs().mean()}


class FeedForwardTask:
    """BBCU-M under training; see ``task.Task``. A run's checkpoint has published keys and
    ``alignment``, which no published tensor holds."""

    given = LOW

    def __init__(self, recipe: Recipe, folder: Path, **_: Any) -> None:
        self.recipe = recipe
        self.config = recipe.network
        self.network = Bbcu(self.config)
        if recipe.initial:
            found = read_checkpoint(folder / recipe.initial)
            if found.config != self.config:
                raise CheckpointError(f"{recipe.initial}: has other network options than the "
                                      "recipe; make them equal")
            _load(self.network, found.latent())

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """The low-resolution crops and the photos; nothing is drawn."""
        return given.contiguous(memory_format=torch.channels_last), high

    def objective(self, network: nn.Module) -> nn.Module:
        return _L1(network)

    def restored(self, network: nn.Module, pair: Pair) -> np.ndarray:
        return enlarged(network, pair.low)

    def published(self, network: nn.Module) -> dict[str, Tensor]:
        named = {name: value.detach().float().cpu().numpy()
                 for name, value in network.named_parameters()}
        state = {key: torch.from_numpy(np.array(value, order="C"))
                 for key, value in to_published(named, self.config).items()}
        return {**state, "alignment": torch.tensor(self.config.alignment)}

    def load_published(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        _load(network, self._latent(state, "checkpoint"))

    def pack(self, published: dict[str, Tensor], run: Path, output: Path,
             overwrite: bool = False) -> None:
        write_packed(output, from_latent(self._latent(published, str(run)), self.config,
                                         name=run.name, origin=str(run), scale=self.config.scale),
                     overwrite=overwrite)

    def _latent(self, state: dict[str, Tensor], origin: str) -> dict[str, np.ndarray]:
        return from_published({key: value.numpy() for key, value in state.items()
                               if key != "alignment"}, self.config, origin)


@torch.no_grad()
def enlarged(network: nn.Module, low: np.ndarray) -> np.ndarray:
    """The picture that the network makes of a low-resolution one, uint8 (H, W, 3) each."""
    device = next(network.parameters()).device
    picture = torch.from_numpy(np.ascontiguousarray(to_unit(low).transpose(2, 0, 1)[None]))
    result = network(picture.to(device)).float().cpu().numpy()[0]
    return np.rint(result.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def _load(network: nn.Module, latent: dict[str, np.ndarray]) -> None:
    network.load_state_dict({name: torch.from_numpy(np.array(value, np.float32))
                             for name, value in latent.items()})
