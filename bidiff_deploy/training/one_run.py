"""Training of a network without a loop: L1 between its output and the photo, ``psnr`` or ``luma``.

``psnr`` is the mean over images of log10(mean square error + 1e-5). Its minimum is the largest mean
PSNR, in which a smooth photo counts as much as one with much detail, which decides L1. Source: Chen
et al., "HINet", CVPR workshops 2021; the constant, for images better than 50 dB, is ours.

``luma`` is what the eye sees most of and PSNR-Y and SSIM-Y measure: as ``psnr``, with the mean
square error 0.8 of luma and 0.2 of the colours, plus 0.25 log10(1 - SSIM of luma + 1e-3). SSIM:
Wang et al., IEEE Transactions on Image Processing 13(4), 2004; the weights are ours.
"""

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
from .luma import luma, ssim
from .networks import make_module
from .recipe import Recipe
from .validate import Pair
from .weights import latent_weights, load_initial, load_published, published_state

__all__ = ["OneRunTask", "enlarged"]


_FLOOR = 1e-5
_LUMA_SHARE = 0.8  # the rest keeps colours right
_SSIM_SHARE, _SSIM_FLOOR = 0.25, 1e-3


class _Loss(nn.Module):
    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        image = self.network(low)
        error = image - high
        if self.kind == "l1":
            return {"loss": error.abs().mean()}
        squares = error.square().mean((1, 2, 3))
        if self.kind == "psnr":
            return {"loss": (squares + _FLOOR).log10().mean()}
        ours, theirs = luma(image.float()), luma(high)
        squares = _LUMA_SHARE * (ours - theirs).square().mean((1, 2, 3)) + (
            1 - _LUMA_SHARE) * squares
        unlike = 1 - ssim(ours, theirs)
        parts = {"squares": (squares + _FLOOR).log10().mean(),
                 "structure": (unlike + _SSIM_FLOOR).log10().mean()}
        return {"loss": parts["squares"] + _SSIM_SHARE * parts["structure"], **parts}


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
