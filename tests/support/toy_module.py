"""The toy network in torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bidiff_deploy.networks.bbcu.architecture import Layer
from bidiff_deploy.training.networks.bbcu import BinaryConv2d
from support.toy_network import SCALE, ToyConfig


class ToyModule(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        wide = config.channels
        self.config = config
        self.stem = nn.Conv2d(3, wide, 3, padding=1)
        self.body = BinaryConv2d(Layer("body", "body", "", wide, wide, 1))
        self.head = nn.Conv2d(wide, 3 * SCALE ** 2, 3, padding=1)
        for parameter in self.body.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.2)

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.head(self.body(self.stem(image))), SCALE)


def seeded(config: ToyConfig) -> ToyModule:
    torch.manual_seed(0)
    return ToyModule(config).eval()
