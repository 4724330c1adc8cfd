"""Training of a network without a loop, see ``photo_losses``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..checkpoint.packed import write_packed
from ..checkpoint.record import from_latent
from ..images.resample import to_unit
from .crops import LOW
from .draws import Draws
from .networks import make_module
from .photo_losses import photo_loss
from .recipe import Recipe
from .validate import Pair
from .weights import latent_weights, load_initial, load_published, published_state

__all__ = ["OneRunTask", "enlarged"]


class _Loss(nn.Module):
    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        found = photo_loss(self.network(low), high, self.kind)
        return {"loss": found.pop(self.kind), **found}


class OneRunTask:
    """A network without a loop under training; see ``task.Task``."""

    given = LOW

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.network = make_module(recipe.network)
        if recipe.initial:
            load_initial(self.network, folder / recipe.initial, recipe.initial,
                         recipe.scale)

    def prepare(self, network: nn.Module, high: Tensor, given: Tensor,
                draws: Draws) -> tuple[Tensor, ...]:
        """The low-resolution crops and the photos; uses no random numbers."""
        return given.contiguous(memory_format=torch.channels_last), high

    def objective(self) -> nn.Module:
        return _Loss(self.network, self.recipe.loss)

    def restored(self, network: nn.Module, pair: Pair) -> npt.NDArray[np.uint8]:
        return enlarged(network, pair.low)

    def published(self, network: nn.Module) -> dict[str, Tensor]:
        return published_state(network, self.recipe.network)

    def load_published(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        load_published(network, state, self.recipe.network)

    def pack(self, published: dict[str, Tensor], run: Path, output: Path,
             overwrite: bool = False) -> None:
        recipe = self.recipe
        write_packed(output, from_latent(latent_weights(published, recipe.network, str(run)),
                                         recipe.network, name=run.name, origin=str(run),
                                         scale=recipe.scale), overwrite=overwrite)


@torch.no_grad()
def enlarged(network: nn.Module, low: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The network's output for a low-resolution image, uint8 (H, W, 3) each."""
    device = next(network.parameters()).device
    image = torch.from_numpy(np.ascontiguousarray(to_unit(low).transpose(2, 0, 1)[None]))
    result: npt.NDArray[np.float32] = network(image.to(device)).float().cpu().numpy()[0]
    rounded: npt.NDArray[np.uint8] = np.rint(result.clip(0, 1) * 255).astype(np.uint8)
    return np.moveaxis(rounded, 0, 2)
