"""DISTS, the same formula on features of another network, and edges.

DISTS: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity" (arXiv
2004.07728): for each channel of the image and of five stages of VGG16 a similarity of means and one
of variations over all pixels, weighted by learned factors. Without these weights the formula is
computed on the image and a frozen teacher's features with equal factors; it is then called
``features``, since it is not DISTS. DFOSD (arXiv 2410.04224) adds the same of the edges, found by
Sobel's filter: EA-DISTS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoint.tensor_files import read_state
from ...errors import CheckpointError

__all__ = ["Vgg", "dissimilarity", "edges", "equal_factors", "l2_pool", "with_edges"]

Features = Callable[[Tensor], Sequence[Tensor]]

_C1 = _C2 = 1e-6
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # torchvision's vgg16.features


def dissimilarity(first: Sequence[Tensor], second: Sequence[Tensor], alpha: Tensor,
                  beta: Tensor) -> Tensor:
    """1 - the weighted similarity of two images' features, (N,): 0 for equal ones.

    ``first``, ``second``: levels of features, float (N, C, H, W); ``alpha``, ``beta``: the factors
    of means and of variations, one for each channel of all levels. They need not sum to 1.
    """
    total = alpha.sum() + beta.sum()
    found, place = torch.zeros(len(first[0]), device=alpha.device), 0
    for x, y in zip(first, second):
        x, y = x.float(), y.float()
        part = slice(place, place + x.shape[1])
        place = part.stop
        mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
        x, y = x - mean_x[..., None, None], y - mean_y[..., None, None]
        means = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
        variations = (2 * (x * y).mean((2, 3)) + _C2) / (
            x.square().mean((2, 3)) + y.square().mean((2, 3)) + _C2)
        found = found + means @ (alpha[part] / total) + variations @ (beta[part] / total)
    return 1 - found


def equal_factors(features: Sequence[Tensor]) -> Tensor:
    """One for each channel of all levels."""
    return torch.ones(sum(x.shape[1] for x in features), device=features[0].device)


def edges(image: Tensor) -> Tensor:
    """The length of Sobel's gradient, of each channel: (N, C, H, W) -> (N, C, H, W)."""
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=image.device,
                          dtype=image.dtype)
    channels = image.shape[1]
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across, down = (F.conv2d(padded, k.expand(channels, 1, 3, 3), groups=channels)
                    for k in (kernel, kernel.T))
    return (across.square() + down.square() + 1e-12).sqrt()


def with_edges(distance: Callable[[Tensor, Tensor], Tensor], first: Tensor,
               second: Tensor) -> Tensor:
    """``distance`` of two images plus that of their edges."""
    return distance(first, second) + distance(edges(first), edges(second))


def l2_pool(x: Tensor) -> Tensor:
    """DISTS's pooling instead of maxima, sqrt(g * x^2 + 1e-12) with stride 2, g = [1 2 1] x [1 2 1]
    / 16: (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
    line = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    pooled = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1])
    return (pooled + 1e-12).sqrt()


class Vgg(nn.Module):
    """The features of DISTS: images (N, 3, H, W) in [0, 1] -> the images and five levels.

    vgg    weights of torchvision's VGG16: ``features.0.weight``, ...
    dists  ``alpha`` and ``beta``, one number for each channel of the image and the five levels

    Raises CheckpointError for files that do not have these. Its weights are no parameters, since
    nothing trains them.
    """

    mean: Tensor
    std: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, vgg: Path, dists: Path) -> None:
        super().__init__()
        weights, factors = _tensors(vgg), _tensors(dists)
        for stage in _STAGES:
            for index in stage:
                for part in ("weight", "bias"):
                    self.register_buffer(f"{part}{index}",
                                         _named(weights, f"features.{index}.{part}", vgg))
        channels = 3 + sum(len(self.get_buffer(f"bias{stage[-1]}")) for stage in _STAGES)
        for name in ("alpha", "beta"):
            value = _named(factors, name, dists).flatten()
            if len(value) != channels:
                raise CheckpointError(f"{dists}: {name} has {len(value)} numbers, but the features "
                                      f"of {vgg} have {channels} channels; give files that belong "
                                      "together")
            self.register_buffer(name, value)
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = (image - self.mean) / self.std
        found = [image]
        for level, stage in enumerate(_STAGES):
            x = l2_pool(x) if level else x
            for index in stage:
                x = F.relu(F.conv2d(x, self.get_buffer(f"weight{index}"),
                                    self.get_buffer(f"bias{index}"), padding=1))
            found.append(x)
        return found


def _tensors(path: Path) -> Mapping[str, Tensor]:
    state, _, _ = read_state(path)
    return {key: torch.as_tensor(value) for key, value in state.items()}


def _named(tensors: Mapping[str, Tensor], key: str, path: Path) -> Tensor:
    try:
        return tensors[key].float()
    except KeyError:
        raise CheckpointError(f"{path}: has no {key}; give torchvision's VGG16 as vgg and DISTS's "
                              "weights.pt as dists") from None
