"""The two-level network of the reference case gpd_toy, made of BI-DiffSR's blocks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from bidiff_deploy.networks.bi_diffsr.architecture import Block
from bidiff_deploy.networks.bi_diffsr.config import NetworkConfig
from bidiff_deploy.training.networks.bi_diffsr_blocks import Down, Fusion, Head, Residual, Up

CONFIG = NetworkConfig(inner_channel=16, norm_groups=4, channel_mults=(1, 2), res_blocks=1,
                       dropout=0, total_step=10, dynamic_group=1, fp_res=())
_PARTS = {"w": "weight", "b": "threshold", "c0": "shift_in", "s": "slope", "c1": "shift_out",
          "bias": "bias", "g": "weight", "o": "bias"}


def _block(kind: str, channels: int, *, binary: bool = True, attention: bool = False) -> Block:
    return Block(kind, "toy.0", "toy", channels, 0, binary, attention)


class Toy(nn.Module):
    """Residual block, CP-Down, residual block with attention, CP-Up, a binary and a float
    CS-Fusion with the same skip; ``copies`` as in ``BiDiffSR``."""

    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        self.head = nn.Conv2d(6, 16 * copies, 3, padding=1)
        self.enc = Residual(CONFIG, _block("residual", 16), copies)
        self.down = Down(CONFIG, _block("down", 16), copies)
        self.mid = Residual(CONFIG, _block("residual", 32, attention=True), copies)
        self.up = Up(CONFIG, _block("up", 32), copies)
        self.fus = Fusion(CONFIG, _block("fusion", 16), copies)
        self.dec = Residual(CONFIG, _block("residual", 16), copies)
        self.ffus = Fusion(CONFIG, _block("fusion", 16, binary=False), copies)
        self.tail = Head(CONFIG, 16, copies)
        for block, channels in ((self.enc, 16), (self.mid, 32), (self.dec, 16)):
            block.time = nn.Linear(8, channels * copies)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        group = torch.zeros(1, dtype=torch.int64)
        skip = self.enc(self.head(x), time, group)
        x = self.up(self.mid(self.down(skip, group), time, group), group)
        x = self.dec(self.fus(x, skip, group), time, group)
        return self.tail(self.ffus(x, skip, group))


def toy_student(case: dict[str, np.ndarray]) -> Toy:
    """The student with the reference's weights."""
    toy = Toy()
    state = {}
    for key in case:
        if not key.startswith("P:"):
            continue
        value = torch.tensor(case[key])
        block, _, rest = key[2:].partition(".")
        if rest in ("tw", "tb"):
            name = f"{block}.time.{'weight' if rest == 'tw' else 'bias'}"
        elif block == "att":
            name = "mid.attention." + {"n.g": "norm.weight", "n.o": "norm.bias", "o": "out.weight",
                                       "qkv": "qkv.weight", "ob": "out.bias"}[rest]
            value = value[..., None, None] if value.ndim == 2 else value
        elif block == "last":
            name = f"tail.norm.{_PARTS[rest]}"
        elif block == "tail":
            name = f"tail.conv.{_PARTS[rest]}"
        elif block == "head":
            name = f"head.{_PARTS[rest]}"
        else:
            layer, _, part = rest.rpartition(".")
            layer = layer.replace("n", "norm").replace("c", "conv")
            layer = f"conv{layer}" if layer.isdigit() else layer
            name = f"{block}.{layer}.{_PARTS[part]}"
        state[name] = value[None] if name.rpartition(".")[2] in (
            "threshold", "shift_in", "slope", "shift_out") else value
    toy.load_state_dict(state)
    return toy
