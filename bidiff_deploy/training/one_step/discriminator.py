"""The time-aware discriminator on features of a frozen teacher's encoder.

Source: TAD-SR (arXiv 2408.07476): each level's features are normalised, scaled and shifted by the
timestep, convolved, flattened, and judged by a head of one-dimensional convolutions with spectral
norm, that of StyleGAN-T (Sauer et al., ICML 2023). Parameters have the names of its released code.
What differs here: one power iteration for each call of ``iterate``, which is once in an iteration
of training, not in each forward pass; the groups of a norm divide any number of channels; a map of
fewer than four pixels is repeated, because the circular convolution of nine needs four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Judge", "judge_losses", "student_loss"]

_KERNEL, _NORM_GROUPS, _HEAD_GROUPS = 9, 32, 4


class _SpectralConv1d(nn.Conv1d):
    """A convolution whose weight is divided by its largest singular value, circular if k > 1."""

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, padding_mode="circular")
        weight = self.weight
        del self.weight
        self.weight_orig = nn.Parameter(weight.detach())
        rows, columns = weight.flatten(1).shape
        self.register_buffer("weight_u", F.normalize(torch.randn(rows), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(columns), dim=0))

    @torch.no_grad()
    def iterate(self) -> None:
        """One power iteration: better estimates of the singular vectors."""
        matrix = self.weight_orig.flatten(1)
        self.weight_v.copy_(F.normalize(matrix.mT @ self.weight_u, dim=0))
        self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0))

    def sigma(self) -> Tensor:
        """The estimate of the largest singular value."""
        # Copies, since a later iteration changes them before the gradient is computed.
        found: Tensor = (self.weight_u.clone() @ self.weight_orig.flatten(1)
                         @ self.weight_v.clone())
        return found

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(x, self.weight_orig / self.sigma(), self.bias)
        return y


class _Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fn(x)
        return (y + x) / math.sqrt(2)


class _Head(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()

        def block(kernel: int) -> nn.Sequential:
            groups = math.gcd(_HEAD_GROUPS, channels)
            return nn.Sequential(_SpectralConv1d(channels, channels, kernel),
                                 nn.GroupNorm(groups, channels), nn.LeakyReLU(0.2))

        self.main = nn.Sequential(block(1), _Residual(block(_KERNEL)))
        self.cls = _SpectralConv1d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        if x.shape[2] < _KERNEL // 2:
            x = x.repeat(1, 1, -(-(_KERNEL // 2) // x.shape[2]))
        logits: Tensor = self.cls(self.main(x))
        return logits.flatten(1)


class Judge(nn.Module):
    """The discriminator.

    embed    numbers of the sinusoid of a timestep, even
    widths   channels of each map that it judges
    classes  logits of each pixel
    rate     its learning rate relative to the student's
    """

    def __init__(self, embed: int, widths: Sequence[int], classes: int, rate: float = 1.0) -> None:
        super().__init__()
        self.embed, self.rate_share = embed, rate
        self.heads = nn.ModuleList(_Head(width, classes) for width in widths)
        self.emb_layers = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(embed, 2 * width))
                                        for width in widths)
        self.out_layers = nn.ModuleList(nn.Sequential(
            nn.GroupNorm(math.gcd(_NORM_GROUPS, width), width), nn.SiLU(), nn.Identity(),
            nn.Conv2d(width, width, 3, padding=1)) for width in widths)
        for layer in self.out_layers:  # so that all logits begin as biases
            for parameter in layer.get_submodule("3").parameters():
                nn.init.zeros_(parameter)

    def iterate(self) -> None:
        """One power iteration of each spectral norm."""
        for module in self.modules():
            if isinstance(module, _SpectralConv1d):
                module.iterate()

    def forward(self, features: Sequence[Tensor], timestep: Tensor) -> list[Tensor]:
        """Logits of each level, (N, classes * pixels).

        ``features``: float (N, width, H, W) each; ``timestep``: (1,) or (N,), any type.
        """
        half = self.embed // 2
        ramp = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
        angle = timestep.float()[:, None] * torch.exp(-math.log(1e4) * ramp)
        wave = torch.cat([angle.cos(), angle.sin()], dim=1)
        found = []
        for x, head, by_time, out in zip(features, self.heads, self.emb_layers, self.out_layers):
            scale, shift = by_time(wave)[:, :, None, None].chunk(2, dim=1)
            assert isinstance(out, nn.Sequential)
            # torch 2.13 crashes in the gradient of GroupNorm where a channels_last input has none.
            normal = out[0](x.contiguous())
            found.append(head(out[1:](normal * (1 + scale) + shift)))
        return found


def judge_losses(real: Sequence[Tensor], fake: Sequence[Tensor], kind: str) -> Tensor:
    """The discriminator's loss for the logits of photos and results: a scalar.

    ``hinge``: mean relu(1 - real) + mean relu(1 + fake); ``logistic``: the same of
    -log sigmoid(real) and -log sigmoid(-fake). Means are over all logits of all levels.
    """
    photos, results = torch.cat(list(real), 1), torch.cat(list(fake), 1)
    if kind == "hinge":
        return F.relu(1 - photos).mean() + F.relu(1 + results).mean()
    return F.softplus(-photos).mean() + F.softplus(results).mean()


def student_loss(fake: Sequence[Tensor], kind: str) -> Tensor:
    """The student's loss: -mean of the logits for ``hinge``, -log sigmoid for ``logistic``."""
    results = torch.cat(list(fake), 1)
    return -results.mean() if kind == "hinge" else F.softplus(-results).mean()
