"""DiT-SR in torch, with AdaFM as the Fourier transforms that it is published as."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...networks.dit_sr.architecture import Block, DitSrConfig, blocks
from .latent import LatentModule

__all__ = ["DitSr"]


class DitSr(LatentModule):
    """(noisy, condition, timestep) -> the clean latent, each (N, C, H, W)."""

    config: DitSrConfig

    def forward(self, noisy: Tensor, condition: Tensor, timestep: int) -> Tensor:
        time = F.silu(self.time_features(timestep, self.config.model_channels))
        x = torch.cat([noisy, condition], 1)
        skips: list[Tensor] = []
        for block in blocks(self.config):
            if block.kind == "stage":
                x = self._stage(x, block, time)
            elif block.kind == "head":
                x = self.conv(F.silu(self.norm(x, f"{block.name}.0")), f"{block.name}.2")
            elif block.kind != "none":
                if block.kind == "join":
                    x = torch.cat([x, skips.pop()], 1)
                elif block.kind == "up":
                    x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.conv(x, block.name, 2 if block.kind == "down" else 1)
            if block.pushes:
                skips.append(x)
        return x

    def _stage(self, x: Tensor, block: Block, time: Tensor) -> Tensor:
        level, cell = self.config.level(block.level), self.config.cell(block.level)
        x = self.conv(x, f"{block.name}.patch_embed.proj")
        for index in range(block.depth):
            name = f"{block.name}.blocks.{index}"

            def modulated(y: Tensor, part: str, name: str = name) -> Tensor:
                return adafm(y, self.linear(time, f"{name}.adaLN_scale_{part}.1"), cell)

            y = modulated(self.norm(x, f"{name}.norm1"), "msa")
            x = x + self.window_attention(y, f"{name}.attn", level, level.shift * (index % 2),
                                          self.config.num_head_channels)
            y = modulated(self.norm(x, f"{name}.norm2"), "mlp")
            y = F.gelu(self.conv(y, f"{name}.mlp.fc1"))
            x = x + self.conv(y, f"{name}.mlp.fc2")
        return self.conv(x, f"{block.name}.patch_unembed.proj")


def adafm(x: Tensor, scale: Tensor, cell: int) -> Tensor:
    """A map (N, C, H, W), each of its cells multiplied by ``scale`` in its frequencies."""
    count, channels, height, width = x.shape
    cells = x.reshape(count, channels, height // cell, cell, width // cell, cell).transpose(3, 4)
    spectrum = torch.fft.rfft2(cells) * scale.reshape(cell, cell // 2 + 1)
    cells = torch.fft.irfft2(spectrum, s=(cell, cell)).transpose(3, 4)
    return cells.reshape(count, channels, height, width)
