"""ResShift's UNet in torch, in full precision (SinSR) and with BiMaCoSR's binary layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ...networks.resshift_unet.architecture import Block, blocks, layers
from ...networks.resshift_unet.config import UnetConfig
from .latent import LatentModule

__all__ = ["BiMaCoSr", "ResShiftUnet"]


class ResShiftUnet(LatentModule):
    """(noisy, condition, timestep) -> the clean latent, each (N, C, H, W)."""

    config: UnetConfig

    def forward(self, noisy: Tensor, condition: Tensor, timestep: int) -> Tensor:
        time = F.silu(self.time_features(timestep, self.config.model_channels))
        x = torch.cat([noisy, condition], 1)
        skips: list[Tensor] = []
        for block in blocks(self.config):
            if block.joins:
                x = torch.cat([x, skips.pop()], 1)
            x = self._block(x, block, time)
            if block.pushes:
                skips.append(x)
        return x

    def _block(self, x: Tensor, block: Block, time: Tensor) -> Tensor:
        if block.kind == "residual":
            return self._residual_at(x, block, time)
        if block.kind == "stage":
            return self._stage(x, block)
        if block.kind == "head":
            return self.conv(F.silu(self.norm(x, f"{block.name}.0")), f"{block.name}.2")
        if block.kind == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x, block.name, 2 if block.kind == "down" else 1)

    def _residual_at(self, x: Tensor, block: Block, time: Tensor) -> Tensor:
        name = block.name
        y = self.conv(F.silu(self.norm(x, f"{name}.in_layers.0")), f"{name}.in_layers.2")
        scale, shift = self.linear(time, f"{name}.emb_layers.1")[..., None, None].chunk(2, 1)
        y = self.norm(y, f"{name}.out_layers.0") * (1 + scale) + shift
        y = self.conv(F.silu(y), f"{name}.out_layers.3")
        return y + (x if block.cin == block.cout else self.conv(x, f"{name}.skip_connection"))

    def _stage(self, x: Tensor, block: Block) -> Tensor:
        level = self.config.level(block.level)
        x = self.conv(x, f"{block.name}.patch_embed.proj")
        for index in range(self.config.swin_depth):
            name = f"{block.name}.blocks.{index}"
            x = x + self.window_attention(self.norm(x, f"{name}.norm1"), f"{name}.attn", level,
                                          level.shift * (index % 2), self.config.num_head_channels)
            y = self.conv(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
            x = x + self.conv(self.gelu(y), f"{name}.mlp.fc2")
        return self.conv(x, f"{block.name}.patch_unembed.proj")

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self[f"{name}.weight"].flatten(1), self[f"{name}.bias"])

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class BiMaCoSr(ResShiftUnet):
    """The binary form.

    signs  -1, 0 and 1 of the maps that binary layers read, by the layer's name and as the graph
           lays them out; taken instead of the network's own where they are given
    flips  how many of these differ from the network's own, by name, and the largest magnitude of
           such a value against the root mean square of its map
    """

    def __init__(self, config: UnetConfig) -> None:
        super().__init__(config)
        self.signs: Mapping[str, Tensor] = {}
        self.flips: dict[str, tuple[int, float]] = {}
        self._binary = {layer.name: layer for layer in layers(config)
                        if layer.binary and layer.kind in ("conv", "linear")}

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int | None = None) -> Tensor:
        if name not in self._binary:
            return super().conv(x, name, stride, padding)
        weight = self[f"{name}.weight"]
        activation = x.abs().mean(1, keepdim=True) * self._signs_of(x, name, 1)
        y = F.conv2d(activation, _binarised(weight), self[f"{name}.bias"], stride,
                     weight.shape[-1] // 2)
        shift, after = (self[f"{name}.relu.pr_bias{place}.bias"][:, None, None] for place in (0, 1))
        y = F.prelu(y + shift, self[f"{name}.relu.pr_prelu.weight"]) + after
        if stride == 2:
            return y + F.avg_pool2d(x, 2)
        low = F.conv2d(x, self[f"{name}.lora.A.weight"][..., None, None])
        low = F.conv2d(low, self[f"{name}.lora.B.weight"][..., None, None])
        return y + F.conv2d(x, self._sparse(name)[..., None, None]) + low

    def linear(self, x: Tensor, name: str) -> Tensor:
        if name not in self._binary:
            return super().linear(x, name)
        activation = x.abs().mean(-1, keepdim=True) * self._signs_of(x, name, -1)
        y = F.linear(activation, _binarised(self[f"{name}.weight"]).flatten(1),
                     self[f"{name}.bias"])
        low = F.linear(F.linear(x, self[f"{name}.lora.B.weight"]), self[f"{name}.lora.A.weight"])
        return y + F.linear(x, self._sparse(name)) + low

    def _sparse(self, name: str) -> Tensor:
        rows, columns = self[f"{name}.skip_connection.indices_float"].round().long()
        weight = self[f"{name}.weight"]
        empty = weight.new_zeros(weight.shape[:2])
        return empty.index_put((rows, columns), self[f"{name}.skip_connection.values"],
                               accumulate=True)

    def _signs_of(self, x: Tensor, name: str, axis: int) -> Tensor:
        own = x.sign()
        if name not in self.signs:
            return own
        given = self.signs[name]
        if axis == -1:  # (N, C, columns, rows * tokens) to the tokens of windows, rows first
            cut = given.reshape(*given.shape[:3], -1, x.shape[1])
            given = cut.permute(0, 3, 2, 4, 1).reshape(x.shape)
        elif given.shape != x.shape:  # inside a stage
            window = x.shape[3] // given.shape[2]
            cut = given.reshape(*given.shape[:3], -1, window)
            given = cut.transpose(2, 3).reshape(x.shape)
        other = given != own
        largest = x[other].abs().max() / x.square().mean().sqrt() if other.any() else 0.0
        self.flips[name] = int(other.sum()), float(largest)
        return given


def _binarised(weight: Tensor) -> Tensor:
    """The signs of latent weights times the mean magnitude of each output channel; a weight of 0 is
    +1 in a packed network."""
    scale = weight.abs().mean((1, 2, 3), keepdim=True)
    return torch.where(weight >= 0, scale, -scale)
