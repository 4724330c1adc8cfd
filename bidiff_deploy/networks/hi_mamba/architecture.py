"""The options of a Hi-Mamba network, its parts and its parameters by name.

Source: Qiao et al., "Hi-Mamba: Hierarchical Mamba for Efficient Image Super-Resolution" (arXiv
2410.10140; IEEE TIP 34, 2025). No code is published.

    shallow = conv3x3(image); groups of blocks; conv3x3(groups(shallow) + shallow), PixelShuffle

A block has two branches, one over pixels, one over regions of n x n, each with one selective scan,
F = S x_local + (1 - S) repeat(x_region), and a gated feed-forward network. Each block scans in one
direction, and the blocks of a group take the directions in turn.

What the paper leaves open, and what is done here:

- a region is the mean of its pixels; regions that reach beyond the image have fewer;
- S is learned for each channel, and begins at 1/2;
- a branch is the SS2D of MambaIR (Guo et al., ECCV 2024) with one direction instead of four: 1x1
  convolution to two maps x and z, depthwise 3x3 and SiLU on x, the scan, whose step, b and c are
  1x1 convolutions of x, LayerNorm, the product with SiLU(z), 1x1 convolution;
- LayerNorm over channels before the two branches, which share it, and before the feed-forward
  network, and a residual around each: y = x + F(norm(x)), y + FFN(norm(y));
- the feed-forward network is a 1x1 convolution to two maps, their product, and a 1x1 convolution;
- directions: along rows, down columns, and both reversed, in this order;
- a group ends with a 3x3 convolution, with a residual around all of it, as in MambaIR;
- widths and depths: the defaults are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import CheckpointError
from ..base import Parameter
from ..options import check_whole_numbers, options_from

SCALES = (2, 3, 4)
COLORS = 3
EPSILON = 1e-5  # of LayerNorm
DIRECTIONS = ((0, 0), (1, 0), (0, 1), (1, 1))  # attributes columns and reverse of SelectiveScan
BRANCHES = ("local", "region")
MAX_STATES = 64  # of the kernel
_LIMITS = {"channels": 1 << 10, "groups": 64, "blocks": 64, "inner": 1 << 11,
           "states": MAX_STATES, "rank": 1 << 10, "hidden": 1 << 12, "region": 64}


@dataclass(frozen=True)
class HiMambaConfig:
    """Options of one network.

    channels  of the maps between blocks
    groups    of blocks; ``blocks`` is the number of blocks in each
    inner     channels of a scan
    states    of each channel of a scan
    rank      channels of which the steps of a scan are computed
    hidden    channels of the product in a feed-forward network
    region    n of the regions of n x n pixels
    """

    network: ClassVar[str] = "hi-mamba"

    channels: int = 48
    groups: int = 3
    blocks: int = 4
    inner: int = 64
    states: int = 8
    rank: int = 3
    hidden: int = 64
    region: int = 4
    scale: int = 2

    def __post_init__(self) -> None:
        check_whole_numbers(self, **_LIMITS)
        if isinstance(self.scale, bool) or self.scale not in SCALES:
            raise CheckpointError(f"network option scale={self.scale!r} must be one of "
                                  f"{', '.join(map(str, SCALES))}")

    @classmethod
    def from_dict(cls, options: Mapping[str, Any],
                  origin: str = "network options") -> HiMambaConfig:
        """Config from a mapping of option names; ``origin`` names the mapping in errors."""
        return options_from(cls, options, origin)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON-ready values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Convolution:
    """A convolution, in order of execution: ``size`` x ``size`` with zero padding, of ``cin`` to
    ``cout`` channels, or of each of ``cout`` channels alone if ``depthwise``. ``regions``: its map
    has a pixel for each region."""

    name: str
    cin: int
    cout: int
    size: int = 1
    bias: bool = True
    depthwise: bool = False
    regions: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its weight."""
        return self.cout, 1 if self.depthwise else self.cin, self.size, self.size


@dataclass(frozen=True)
class Scan:
    """A selective scan, and the LayerNorm after it: ``columns`` and ``reverse`` as in
    DIRECTIONS."""

    name: str
    columns: int
    reverse: int
    regions: bool = False


def block_names(config: HiMambaConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    """The name and direction of each block, in order of execution."""
    for group in range(config.groups):
        for block in range(config.blocks):
            yield f"groups.{group}.blocks.{block}", DIRECTIONS[block % len(DIRECTIONS)]


def branch(config: HiMambaConfig, name: str, direction: tuple[int, int],
           regions: bool) -> list[Convolution | Scan]:
    """The parts of one branch."""
    inner, read = config.inner, config.rank + 2 * config.states
    return [Convolution(f"{name}.enter", config.channels, 2 * inner, 1, False, False, regions),
            Convolution(f"{name}.depthwise", inner, inner, 3, True, True, regions),
            Convolution(f"{name}.read", inner, read, 1, False, False, regions),
            Convolution(f"{name}.step", config.rank, inner, 1, True, False, regions),
            Scan(f"{name}.scan", *direction, regions),
            Convolution(f"{name}.leave", inner, config.channels, 1, False, False, regions)]


def parts(config: HiMambaConfig) -> Iterator[Convolution | Scan]:
    """Every convolution and scan of the network, in order of execution."""
    wide = config.channels
    yield Convolution("shallow", COLORS, wide, 3)
    for index, (name, direction) in enumerate(block_names(config)):
        for kind in BRANCHES:
            yield from branch(config, f"{name}.{kind}", direction, kind == "region")
        yield Convolution(f"{name}.expand", wide, 2 * config.hidden)
        yield Convolution(f"{name}.project", config.hidden, wide)
        if (index + 1) % config.blocks == 0:
            yield Convolution(f"groups.{index // config.blocks}.last", wide, wide, 3)
    yield Convolution("head", wide, COLORS * config.scale ** 2, 3)


def parameters(config: HiMambaConfig) -> dict[str, Parameter]:
    """``{name: Parameter}`` of every parameter, in order of execution; names are the published
    keys."""
    shapes: dict[str, tuple[int, ...]] = {}
    wide, inner = (config.channels,), (config.inner,)
    for part in parts(config):
        owner, _, last = part.name.rpartition(".")
        if part.name.endswith(f".{BRANCHES[0]}.enter"):
            block = owner.rpartition(".")[0]
            shapes |= {f"{block}.norm1.weight": wide, f"{block}.norm1.bias": wide,
                       f"{block}.share": wide}
        elif last == "expand":
            shapes |= {f"{owner}.norm2.weight": wide, f"{owner}.norm2.bias": wide}
        if isinstance(part, Scan):
            shapes |= {f"{part.name}.log_a": (config.inner, config.states),
                       f"{part.name}.skip": inner,
                       f"{owner}.norm.weight": inner, f"{owner}.norm.bias": inner}
            continue
        shapes[f"{part.name}.weight"] = part.shape
        if part.bias:
            shapes[f"{part.name}.bias"] = (part.cout,)
    return {name: Parameter(shape, (name,)) for name, shape in shapes.items()}
