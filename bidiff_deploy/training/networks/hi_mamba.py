"""Hi-Mamba in torch; ``networks.hi_mamba.architecture`` has its source and its choices."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks.hi_mamba.architecture import (
    BRANCHES,
    COLORS,
    DIRECTIONS,
    EPSILON,
    HiMambaConfig,
    block_names,
)
from .scan import SelectiveScan, initial_steps


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        last = x.transpose(1, 2).transpose(2, 3)
        normal = F.layer_norm(last, (len(self.weight),), self.weight, self.bias, EPSILON)
        return normal.transpose(2, 3).transpose(1, 2)


class Branch(nn.Module):
    """Depthwise convolution, selective scan in one direction and gate."""

    def __init__(self, config: HiMambaConfig, direction: tuple[int, int]) -> None:
        super().__init__()
        inner, self.sizes = config.inner, (config.rank, config.states, config.states)
        self.enter = nn.Conv2d(config.channels, 2 * inner, 1, bias=False)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.read = nn.Conv2d(inner, sum(self.sizes), 1, bias=False)
        self.step = nn.Conv2d(config.rank, inner, 1)
        self.scan = SelectiveScan(inner, config.states, *direction)
        self.norm = ChannelNorm(inner)
        self.leave = nn.Conv2d(inner, config.channels, 1, bias=False)
        nn.init.uniform_(self.step.weight, -(config.rank ** -0.5), config.rank ** -0.5)
        assert self.step.bias is not None
        self.step.bias.data.copy_(initial_steps(inner))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        x, z = self.enter(x).chunk(2, 1)
        x = F.silu(self.depthwise(x))
        low, b, c = self.read(x).split(self.sizes, 1)
        y = self.scan(x, self.step(low), b, c)
        return self.leave(self.norm(y) * F.silu(z))


class Block(nn.Module):
    """Both branches, then the gated feed-forward network."""

    def __init__(self, config: HiMambaConfig, direction: tuple[int, int]) -> None:
        super().__init__()
        wide, self.side = config.channels, config.region
        self.norm1, self.norm2 = ChannelNorm(wide), ChannelNorm(wide)
        self.share = nn.Parameter(torch.full((wide,), 0.5))
        self.local, self.region = (Branch(config, direction) for _ in BRANCHES)
        self.expand = nn.Conv2d(wide, 2 * config.hidden, 1)
        self.project = nn.Conv2d(config.hidden, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        height, width = x.shape[2:]
        normal = self.norm1(x)
        local = self.local(normal)
        regions = self.region(F.avg_pool2d(normal, self.side, self.side, 0, True, False))
        repeated = regions.repeat_interleave(self.side, 2).repeat_interleave(self.side, 3)
        repeated = repeated[:, :, :height, :width]
        x = (local - repeated) * self.share.view(-1, 1, 1) + repeated + x
        first, second = self.expand(self.norm2(x)).chunk(2, 1)
        return self.project(first * second) + x


class Group(nn.Module):
    """Blocks of all directions and a convolution, with a residual around them."""

    def __init__(self, config: HiMambaConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, DIRECTIONS[index % len(DIRECTIONS)])
                                    for index in range(config.blocks))
        self.last = nn.Conv2d(config.channels, config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        y = x
        for block in self.blocks:
            y = block(y)
        return self.last(y) + x


class HiMamba(nn.Module):
    """The network of one ``HiMambaConfig``.

    Its ``named_parameters`` have the names and shapes of ``architecture.parameters(config)``.
    """

    def __init__(self, config: HiMambaConfig) -> None:
        super().__init__()
        self.config = config
        self.shallow = nn.Conv2d(COLORS, config.channels, 3, padding=1)
        self.groups = nn.ModuleList(Group(config) for _ in range(config.groups))
        self.head = nn.Conv2d(config.channels, COLORS * config.scale ** 2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Low-resolution images, float (N, 3, H, W) in about [0, 1] -> (N, 3, H * scale,
        W * scale), not clipped."""
        x = shallow = self.shallow(image)
        for group in self.groups:
            x = group(x)
        return F.pixel_shuffle(self.head(x + shallow).float(), self.config.scale)

    def operator_ends(self) -> Iterator[tuple[str, nn.Module, bool, bool]]:
        """(name, module, is_input, inside) of the values that ``check`` compares, as for
        BI-DiffSR."""
        outputs = ["shallow"]
        for name, _ in block_names(self.config):
            outputs += [f"{name}.norm1", f"{name}.norm2", f"{name}.expand", f"{name}.project", name]
            for kind in BRANCHES:
                part = f"{name}.{kind}"
                outputs += [f"{part}.{end}" for end in ("enter", "read", "step", "scan", "norm",
                                                        "leave")]
                yield f"{part}.given", self.get_submodule(f"{part}.read"), True, False
        for index in range(self.config.groups):
            outputs += [f"groups.{index}.last", f"groups.{index}"]
        yield from ((name, self.get_submodule(name), False, False) for name in outputs)
