"""What latent networks share in torch: parameters by name, the VQ autoencoder, a Swin block.

Written after the published code's arithmetic and not after the graphs', so that ``check`` compares
two ways to compute the same: the mask of shifted windows, for example, is made of labels here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...networks import parameters
from ...networks.resshift.vq import EPSILON, PREFIX, VqLayer, layers
from ...networks.resshift.windows import HIDDEN, Level

__all__ = ["GROUPS", "LatentModule", "labels", "sinusoid", "window_mask"]

GROUPS = 32
_NORM_EPSILON = 1e-5


class LatentModule(nn.Module):
    """A latent network and its autoencoder; the forward is a subclass's, (noisy, condition,
    timestep) -> clean latent."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        for name, parameter in parameters(config).items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]  # type: ignore[assignment]
            module.register_parameter(last, nn.Parameter(torch.zeros(parameter.shape)))

    def encode(self, image: Tensor) -> Tensor:
        """The latent of an image (N, 3, H, W) in [-1, 1]."""
        return self._coder(image, decoder=False)

    def quantise(self, latent: Tensor) -> Tensor:
        """The nearest code at each position."""
        codes = self[f"{PREFIX}quantize.embedding.weight"]
        flat = latent.movedim(1, -1).reshape(-1, latent.shape[1])
        distances = torch.cdist(flat.double(), codes.double())
        found = codes[distances.argmin(dim=1)]
        return found.reshape(latent.movedim(1, -1).shape).movedim(-1, 1)

    def decode(self, latent: Tensor) -> Tensor:
        """The image of a latent, whose codes are the nearest ones."""
        return self._coder(self.quantise(latent), decoder=True)

    # -- layers by name ---------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Tensor:
        return self.get_parameter(name)

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int | None = None) -> Tensor:
        weight = self[f"{name}.weight"]
        pad = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, self[f"{name}.bias"], stride, pad)

    def norm(self, x: Tensor, name: str, epsilon: float = _NORM_EPSILON) -> Tensor:
        return F.group_norm(x, GROUPS, self[f"{name}.weight"], self[f"{name}.bias"], epsilon)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def time_features(self, timestep: int, channels: int) -> Tensor:
        """The embedding (1, 4 channels) of a timestep."""
        x = sinusoid(timestep, channels)[None].to(self["time_embed.0.weight"])
        x = self.linear(x, "time_embed.0")
        return self.linear(F.silu(x), "time_embed.2")

    # -- attention --------------------------------------------------------------------------------
    def window_attention(self, x: Tensor, name: str, level: Level, shift: int,
                         head_channels: int) -> Tensor:
        """Attention in windows of a map (N, C, H, W), shifted in a circle."""
        count, channels, height, width = x.shape
        w = level.window
        x = torch.roll(x, (-shift, -shift), (2, 3))
        # (N, rows, columns of windows, tokens, C)
        x = x.reshape(count, channels, height // w, w, width // w, w).permute(0, 2, 4, 3, 5, 1)
        thirds = self.linear(x.reshape(-1, w * w, channels), f"{name}.qkv")
        q, k, v = thirds.reshape(-1, w * w, 3, channels // head_channels,
                                 head_channels).permute(2, 0, 3, 1, 4)
        scores = (q * head_channels ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self._position_bias(f"{name}.relative_position_bias_table", w)
        if shift:
            mask = window_mask(height, width, w, shift).to(x.device)
            scores = (scores.reshape(count, len(mask), -1, w * w, w * w)
                      + mask[None, :, None]).reshape(scores.shape)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, w * w, channels)
        y = self.linear(y, f"{name}.proj").reshape(count, height // w, width // w, w, w, channels)
        y = y.permute(0, 5, 1, 3, 2, 4).reshape(count, channels, height, width)
        return torch.roll(y, (shift, shift), (2, 3))

    def _position_bias(self, name: str, window: int) -> Tensor:
        table = self[name]
        side = 2 * window - 1
        rows = torch.arange(window).repeat_interleave(window)
        columns = torch.arange(window).repeat(window)
        index = ((rows[:, None] - rows + window - 1) * side
                 + columns[:, None] - columns + window - 1)
        return table[index].permute(2, 0, 1)

    # -- the autoencoder --------------------------------------------------------------------------
    def _coder(self, x: Tensor, decoder: bool) -> Tensor:
        for layer in layers(self.config.autoencoder, decoder):
            name = PREFIX + layer.name
            if layer.kind == "residual":
                x = self._residual(x, name, layer)
            elif layer.kind == "attention":
                x = self._attention(x, name)
            elif layer.kind == "head":
                x = F.silu(self.norm(x, f"{name}.norm_out", EPSILON))
                x = self.conv(x, f"{name}.conv_out")
            elif layer.kind == "down":
                x = self.conv(F.pad(x, (0, 1, 0, 1)), name, stride=2, padding=0)
            else:
                if layer.kind == "up":
                    x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.conv(x, name)
        return x

    def _residual(self, x: Tensor, name: str, layer: VqLayer) -> Tensor:
        y = self.conv(F.silu(self.norm(x, f"{name}.norm1", EPSILON)), f"{name}.conv1")
        y = self.conv(F.silu(self.norm(y, f"{name}.norm2", EPSILON)), f"{name}.conv2")
        return y + (x if layer.cin == layer.cout else self.conv(x, f"{name}.nin_shortcut"))

    def _attention(self, x: Tensor, name: str) -> Tensor:
        normal = self.norm(x, f"{name}.norm", EPSILON)
        q, k, v = (self.conv(normal, f"{name}.{part}").flatten(2) for part in "qkv")
        weights = (q.transpose(1, 2) @ k * q.shape[1] ** -0.5).softmax(-1)
        mixed = v @ weights.transpose(1, 2)
        return x + self.conv(mixed.reshape(x.shape), f"{name}.proj_out")


def sinusoid(timestep: int, channels: int) -> Tensor:
    """Cosines, then sines, of a timestep, (channels,); the last is 0 for an odd number."""
    half = channels // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    argument = timestep * frequency
    return F.pad(torch.cat([argument.cos(), argument.sin()]), (0, channels % 2))


def labels(height: int, window: int, shift: int) -> Tensor:
    """The label of each row of a map: which of three bands it belongs to."""
    rows = torch.arange(height)
    return (rows >= height - window).long() + (rows >= height - shift).long()


def window_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """The mask of each window (windows, tokens, tokens), rows of windows first: a map of labels,
    equal along rows, cut into windows that are turned, as published code does by mistake."""
    image = labels(height, window, shift)[:, None].expand(height, width)
    cut = image.reshape(height // window, window, width // window, window).permute(0, 2, 3, 1)
    tokens = cut.reshape(-1, window * window)
    return torch.where(tokens[:, None] != tokens[:, :, None], HIDDEN, 0.0)
