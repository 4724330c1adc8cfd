"""BBCU-M in torch: a feed-forward network whose body and upsampler are binary.

Source: Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network"
(arXiv 2210.00405). ``networks.bbcu.architecture`` lists its layers and parameters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks.bbcu.architecture import COLORS, LEAK, BbcuConfig, Layer, layers
from .binarize import INITIAL_SLOPE, weight_scale
from .fused import binary_conv2d, signs

_SMALL = 0.1  # factor on Kaiming's normal initialisation, except in the body


class BinaryConv2d(nn.Module):
    """BIConv of Cin -> Cin * r^2, 3x3: RPReLU(conv(sign(x + threshold), alpha * sign(W))) + x.

    The shortcut repeats every channel r^2 times, followed by PixelShuffle(r); r = 1 is the plain
    BIConv. The convolution is zero-padded after the sign. Parameters have one group, (1, C).
    """

    padding = 1

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.r = layer.upsampling
        self.weight = nn.Parameter(torch.empty(layer.cout, layer.cin, 3, 3))
        self.threshold = nn.Parameter(torch.zeros(1, layer.cin))
        self.shift_in = nn.Parameter(torch.zeros(1, layer.cout))
        self.slope = nn.Parameter(torch.full((1, layer.cout), INITIAL_SLOPE))
        self.shift_out = nn.Parameter(torch.zeros(1, layer.cout))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, Cin, H, W) float -> (N, Cin, H * r, W * r)."""
        group, parts = torch.zeros(1, dtype=torch.int64, device=x.device), self.r * self.r
        maps = []
        # The shortcut of output channel c * r^2 + i is input channel c: the layer is r^2 BIConvs of
        # C -> C with interleaved channels.
        for i in range(parts):
            weight = self.weight[i::parts]
            maps.append(binary_conv2d(x, weight, weight_scale(weight), self.threshold,
                                      self.shift_in[:, i::parts], self.slope[:, i::parts],
                                      self.shift_out[:, i::parts], group, padding=1))
        return F.pixel_shuffle(torch.stack(maps, dim=2).flatten(1, 2), self.r) if parts > 1 \
            else maps[0]

    def residual(self, x: Tensor) -> Tensor:
        """The shortcut before PixelShuffle, (N, Cin * r^2, H, W)."""
        return x.repeat_interleave(self.r * self.r, dim=1)

    def signs(self) -> Tensor:
        """The node's weights, +1 and -1, (Cout, Cin, 3, 3)."""
        return signs(self.weight)

    def constants(self, group: int = 0) -> dict[str, Tensor]:
        """The constants of the layer's BinaryConv node except the signs, (C,) each."""
        return {"alpha": weight_scale(self.weight).flatten(),
                **{part: getattr(self, part)[group]
                   for part in ("threshold", "shift_in", "slope", "shift_out")}}


class FloatConv2d(nn.Conv2d):
    """A full-precision layer of the body: LeakyReLU(conv(x)) + x."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.cin, layer.cout, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float -> (N, C, H, W), float32."""
        return x + F.leaky_relu(super().forward(x).float(), LEAK)

    def around(self, convolution: nn.Module) -> nn.Module:
        """The layer with another module in place of its convolution."""
        return _Around(convolution)


class _Around(nn.Module):
    """``FloatConv2d`` around a quantised convolution, ``inner``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + F.leaky_relu(self.inner(x).float(), LEAK)


class Bbcu(nn.Module):
    """The network of one ``BbcuConfig``.

    Its ``named_parameters`` have the names and shapes of ``architecture.parameters(config)``.
    """

    stem: nn.Conv2d
    refine: BinaryConv2d | None
    head: nn.Conv2d

    def __init__(self, config: BbcuConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = tuple(layers(config))
        self.body, self.up, self.refine = nn.ModuleList(), nn.ModuleList(), None
        for layer in self.layers:
            module = BinaryConv2d(layer) if layer.binary else (
                FloatConv2d(layer) if layer.kind == "body" else _conv(layer))
            if layer.kind in ("body", "up"):
                getattr(self, layer.kind).append(module)
            else:
                setattr(self, layer.name, module)
            if layer.kind != "body":
                nn.init.kaiming_normal_(module.weight)
                module.weight.data.mul_(_SMALL)

    def forward(self, image: Tensor) -> Tensor:
        """Low-resolution images, float (N, 3, H, W) in about [0, 1] -> (N, 3, H * scale,
        W * scale), not clipped. Crops in training have no border to continue."""
        border = 0 if self.training else self.config.border
        if border:
            image = F.pad(image, 4 * (border,), mode="replicate")
        x = image * self.config.alignment
        h = F.leaky_relu(_float_conv(self.stem, x), LEAK)
        for layer in (*self.body, *self.up, *([self.refine] if self.refine is not None else [])):
            h = layer(h)
        h = _float_conv(self.head, F.leaky_relu(h, LEAK))
        h = F.pixel_shuffle(h, math.isqrt(h.shape[1] // COLORS))
        base = F.interpolate(x, scale_factor=self.config.scale, mode="bilinear",
                             align_corners=False)
        whole = (h + base) / self.config.alignment
        edge = border * self.config.scale
        return whole[..., edge:whole.shape[-2] - edge, edge:whole.shape[-1] - edge]


    def operator_ends(self) -> list[tuple[str, nn.Module, bool, bool]]:
        """The full-precision layers, as ``proof.check.forced`` takes them: the first one ends where
        the body begins."""
        ends = [(f"body.{index}.sum", layer, False, False) for index, layer in enumerate(self.body)
                if not isinstance(layer, BinaryConv2d)]
        return [("stem", self.body[0], True, False), *ends] if ends else []


def _conv(layer: Layer) -> nn.Conv2d:
    """A full-precision 3x3 convolution with a bias of 0."""
    conv = nn.Conv2d(layer.cin, layer.cout, 3, padding=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _float_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)`` in float32, also under autocast: later signs depend on its sums."""
    with torch.autocast(x.device.type, enabled=False):
        return conv(x.float())
