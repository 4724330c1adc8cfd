"""Binary layers of other methods, each in place of a BIConv.

``networks.bi_diffsr.binarizers`` describes what each computes; this module and ``plain_layers``
have their parameters and gradients. Unless its paper says otherwise, the sign's gradient is Bi-Real
Net's and the weight's the clipped straight-through estimator, alpha detached, as in ``binarize``.
Under autocast only the sums of signs and their gradients are in low precision, as in ``fused``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks.bi_diffsr.binarizers import alignment_factor
from ...networks.bi_diffsr.config import NetworkConfig
from .binarize import INITIAL_SLOPE, BinaryConv2d, BinaryLayer, weight_scale
from .bit_planes import BitPlaneConv2d
from .fused import autocast_dtype, binary_conv2d
from .plain_layers import BnnConv2d, DoReFaConv2d, IrNetConv2d, PlainLayer, XnorConv2d


def binary_layer(config: NetworkConfig, inputs: int, outputs: int, k: int) -> BinaryLayer:
    """A binary layer with fresh weights."""
    kind = config.binarizer
    if kind == "bbcu":
        return BbcuConv2d(inputs, outputs, k, alignment_factor(config.alignment, outputs))
    if config.binary_layers.products > 1:
        return BitPlaneConv2d(inputs, outputs, k, config.weight_bits, config.activation_bits)
    if kind in _LAYERS:
        return _LAYERS[kind](inputs, outputs, k)
    return BinaryConv2d(inputs, outputs, k, config.dynamic_group)


class _RpReluLayer(BinaryLayer):
    """A layer with RSign's threshold, (Cin,), and RPReLU's three vectors, (Cout,) each."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(inputs, outputs, kernel_size)
        self.threshold = nn.Parameter(torch.zeros(inputs))
        self.shift_in = nn.Parameter(torch.zeros(outputs))
        self.slope = nn.Parameter(torch.full((outputs,), INITIAL_SLOPE))
        self.shift_out = nn.Parameter(torch.zeros(outputs))


class ReActNetConv2d(PlainLayer, _RpReluLayer):
    """RPReLU(conv(RSign(x), alpha sign(W)) + bypass(x)), arXiv 2003.03488.

    The paper's alpha of RSign is ``-threshold``; its gamma, beta and zeta of RPReLU are
    ``-shift_in``, ``slope`` and ``shift_out``.
    """

    def compute(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        return F.prelu(self.node(x, low=low) + _column(self.shift_in),
                       self.slope) + _column(self.shift_out)

    def node(self, x: Tensor, group: Tensor | None = None,
             low: torch.dtype | None = None) -> Tensor:
        return super().node(x + _column(self.threshold), low=low) + self.residual(x)

    def constants(self, group: int) -> dict[str, Tensor]:
        return {**super().constants(group), "threshold": self.threshold}


class BbcuConv2d(_RpReluLayer):
    """bypass(x) + RPReLU(conv(sign(k x + threshold), alpha sign(W))) / k, arXiv 2210.00405.

    The unit of the paper, y = z + RPReLU(conv(sign(z + b))), between z = k x and y / k: residual
    alignment. The paper scales around its whole network, which GroupNorm would undo here.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, factor: float) -> None:
        super().__init__(inputs, outputs, kernel_size)
        self.factor = factor

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(N, Cin, H, W) float and a group of 0, int64 (1,) -> (N, Cout, H, W)."""
        threshold, shift_in, slope, shift_out = (parameter[None] for parameter in (
            self.threshold, self.shift_in, self.slope, self.shift_out))
        x = x.float() if autocast_dtype(x) else x
        y = binary_conv2d(x * self.factor, self.weight, weight_scale(self.weight), threshold,
                          shift_in, slope, shift_out, group, self.padding)
        return y / self.factor

    node = forward

    def constants(self, group: int) -> dict[str, Tensor]:
        # sign(k x + b) = sign(x + b / k), and RPReLU(y) / k is RPReLU of y / k with shifts / k.
        k = self.factor
        return {"alpha": weight_scale(self.weight).flatten() / k, "threshold": self.threshold / k,
                "shift_in": self.shift_in / k, "slope": self.slope,
                "shift_out": self.shift_out / k}


class DabConv2d(PlainLayer):
    """s alpha conv(sign(x - t), sign(W)) + bypass(x), the binarizer of BiDense, arXiv 2411.10346.

    t = center * mean_hw(x) + threshold, (N, Cin, 1, 1), the mean detached; s = exp(sharpness *
    (mean |x - t| - 1)), one per image, (N, 1, 1, 1); the paper has one per channel.
    """

    shortcut = False

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(inputs, outputs, kernel_size)
        self.center = nn.Parameter(1e-3 * torch.randn(inputs))
        self.threshold = nn.Parameter(torch.zeros(inputs))
        self.sharpness = nn.Parameter(1e-3 * torch.randn(1))

    def compute(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        shifted = self.node_input(x)
        scale = torch.exp(self.sharpness * (shifted.abs().mean((1, 2, 3), keepdim=True) - 1))
        return self.node(shifted, low=low) * scale + self.residual(x)

    def node_input(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        mean = x.detach().mean((2, 3), keepdim=True)
        return x - (_column(self.center) * mean + _column(self.threshold))


_LAYERS: dict[str, Callable[[int, int, int], BinaryLayer]] = {
    "bnn": BnnConv2d, "dorefa": DoReFaConv2d, "irnet": IrNetConv2d, "reactnet": ReActNetConv2d,
    "xnor": XnorConv2d, "dab": DabConv2d}


def _column(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
