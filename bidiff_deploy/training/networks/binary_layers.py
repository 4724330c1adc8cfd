"""Binary layers of other methods, each in place of a BIConv: C -> C channels.

``networks.bi_diffsr.binarizers`` describes what each computes; this module has their parameters and
gradients. Unless its paper says otherwise, the sign's gradient is Bi-Real Net's and the weight's
the clipped straight-through estimator, alpha detached, as in ``binarize``. Under autocast only the
sums of signs and their gradients are in low precision, as in ``fused``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...networks.bi_diffsr.architecture import Block
from ...networks.bi_diffsr.binarizers import alignment_factor
from ...networks.bi_diffsr.config import NetworkConfig
from .binarize import (
    INITIAL_SLOPE,
    BinaryConv2d,
    BinaryLayer,
    sign_activation,
    sign_weight,
    weight_scale,
)
from .fused import (
    apply,
    autocast_dtype,
    binary_conv2d,
    convolution_backward,
    passed_by_clamp,
    signs,
)


def binary_layer(config: NetworkConfig, block: Block) -> BinaryLayer:
    """One of the two binary layers of ``block``, with fresh weights."""
    channels, k = block.conv_channels, block.kernel_size
    kind = config.binarizer
    if kind == "reactnet":
        return ReActNetConv2d(channels, k)
    if kind == "xnor":
        return XnorConv2d(channels, k)
    if kind == "bbcu":
        return BbcuConv2d(channels, k, alignment_factor(config.alignment, channels))
    if kind == "dab":
        return DabConv2d(channels, k)
    return BinaryConv2d(channels, k, config.dynamic_group)


class _PlainLayer(BinaryLayer):
    """A layer of BinaryConv and further operations; ``compute`` computes it in float32."""

    fused = False

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(N, C, H, W) float -> (N, C, H, W); ``group`` is not used."""
        low = autocast_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.compute(x.float() if low else x, low)

    def compute(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        """``low``: the dtype of the sums of signs; None: that of ``x``."""
        raise NotImplementedError

    def node(self, x: Tensor, group: Tensor | None = None,
             low: torch.dtype | None = None) -> Tensor:
        """alpha * conv(sign(x), sign(W)); ``x`` is what ``node_input`` returns."""
        return sum_of_signs(sign_activation(x), sign_weight(self.weight), self.padding, low)

    def constants(self, group: int) -> dict[str, Tensor]:
        return {"alpha": weight_scale(self.weight).flatten()}


class _RpReluLayer(BinaryLayer):
    """A layer with RSign's threshold and RPReLU's three vectors, (C,) each."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, kernel_size)
        self.threshold = nn.Parameter(torch.zeros(channels))
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), INITIAL_SLOPE))
        self.shift_out = nn.Parameter(torch.zeros(channels))


class ReActNetConv2d(_PlainLayer, _RpReluLayer):
    """RPReLU(conv(RSign(x), alpha sign(W)) + x), arXiv 2003.03488.

    The paper's alpha of RSign is ``-threshold``; its gamma, beta and zeta of RPReLU are
    ``-shift_in``, ``slope`` and ``shift_out``.
    """

    def compute(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        return F.prelu(self.node(x, low=low) + _column(self.shift_in),
                       self.slope) + _column(self.shift_out)

    def node(self, x: Tensor, group: Tensor | None = None,
             low: torch.dtype | None = None) -> Tensor:
        return super().node(x + _column(self.threshold), low=low) + x

    def constants(self, group: int) -> dict[str, Tensor]:
        return {**super().constants(group), "threshold": self.threshold}


class BbcuConv2d(_RpReluLayer):
    """x + RPReLU(conv(sign(k x + threshold), alpha sign(W))) / k, arXiv 2210.00405.

    The unit of the paper, y = z + RPReLU(conv(sign(z + b))), between z = k x and y / k: residual
    alignment. The paper scales around its whole network, which GroupNorm would undo here.
    """

    def __init__(self, channels: int, kernel_size: int, factor: float) -> None:
        super().__init__(channels, kernel_size)
        self.factor = factor

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(N, C, H, W) float and a group of 0, int64 (1,) -> (N, C, H, W)."""
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


class XnorConv2d(_PlainLayer):
    """alpha K conv(sign(x), sign(W)) + x, arXiv 1603.05279.

    K (N, 1, H, W) is the mean of |x| over channels, then over each kernel window, padded with
    zeros. Gradients are the paper's: 1 where |x| <= 1 for the sign, as in Binarized Neural Networks
    (arXiv 1602.02830), g (1 / n + alpha [|W| <= 1]) for a weight, n the size of a filter; K is
    differentiated as it is.
    """

    shortcut = False

    def compute(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        k = self.weight.shape[-1]
        magnitude = F.avg_pool2d(x.abs().mean(1, keepdim=True), k, 1, self.padding)
        return self.node(x, low=low) * magnitude + x

    def node(self, x: Tensor, group: Tensor | None = None,
             low: torch.dtype | None = None) -> Tensor:
        scaled = apply(_XnorWeight, self.weight, weight_scale(self.weight))
        return sum_of_signs(apply(_XnorSign, x), scaled, self.padding, low)


class DabConv2d(_PlainLayer):
    """s alpha conv(sign(x - t), sign(W)) + x, the binarizer of BiDense, arXiv 2411.10346.

    t = center * mean_hw(x) + threshold, (N, C, 1, 1), the mean detached; s = exp(sharpness *
    (mean |x - t| - 1)), one per image, (N, 1, 1, 1); the paper has one per channel.
    """

    shortcut = False

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, kernel_size)
        self.center = nn.Parameter(1e-3 * torch.randn(channels))
        self.threshold = nn.Parameter(torch.zeros(channels))
        self.sharpness = nn.Parameter(1e-3 * torch.randn(1))

    def compute(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        shifted = self.node_input(x)
        scale = torch.exp(self.sharpness * (shifted.abs().mean((1, 2, 3), keepdim=True) - 1))
        return self.node(shifted, low=low) * scale + x

    def node_input(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        mean = x.detach().mean((2, 3), keepdim=True)
        return x - (_column(self.center) * mean + _column(self.threshold))


def sum_of_signs(bits: Tensor, scaled: Tensor, padding: int,
                 low: torch.dtype | None = None) -> Tensor:
    """conv(bits, scaled), computed as exact sums of signs times alpha.

    ``bits``: +1 and -1, (N, C, H, W); ``scaled``: alpha and -alpha, one alpha per filter,
    (Cout, C, k, k); ``low``: the dtype of the products, None for that of ``bits``. Gradients are
    those of the convolution.
    """
    return apply(_SumOfSigns, bits, scaled, padding, low)


class _SumOfSigns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bits: Tensor, scaled: Tensor, padding: int,
                low: torch.dtype | None) -> Tensor:
        dtype = low or bits.dtype
        ctx.save_for_backward(bits, scaled)
        ctx.padding, ctx.low = padding, low
        y = F.conv2d(bits.to(dtype), signs(scaled).to(dtype), padding=padding)
        return y.to(bits.dtype).mul_(_alpha(scaled).view(1, -1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        bits, scaled = ctx.saved_tensors
        return (*convolution_backward(grad, bits, signs(scaled), _alpha(scaled), ctx.padding,
                                      ctx.low), None, None)


def _alpha(scaled: Tensor) -> Tensor:
    return scaled[:, :1, :1, :1].abs()


class _XnorSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return passed_by_clamp(grad, x)


class _XnorWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(weight, alpha)
        return signs(weight).mul_(alpha)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        weight, alpha = ctx.saved_tensors
        return grad / weight[0].numel() + passed_by_clamp(grad, weight) * alpha, None


def _column(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
