"""The binary layers of Binarized Neural Networks, DoReFa-Net, IR-Net and XNOR-Net.

``networks.bi_diffsr.binarizers`` describes what each computes. Under autocast only the sums of
signs and their gradients are in low precision, as in ``fused``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks.bi_diffsr.binarizers import DOREFA_LEVEL
from .binarize import BinaryLayer, sign_activation, sign_weight, weight_scale
from .fused import autocast_dtype, signs
from .sign_functions import (
    clipped_sign,
    estimated_sign,
    level_sign,
    passed_weight,
    sum_of_signs,
    xnor_weight,
)


def set_progress(network: nn.Module, share: float) -> None:
    """Set the share of the training that is done, 0 to 1, on which IR-Net's gradients depend."""
    for module in network.modules():
        if isinstance(module, IrNetConv2d):
            module.progress.fill_(share)


class PlainLayer(BinaryLayer):
    """A layer of BinaryConv and further operations; ``compute`` computes it in float32."""

    fused = False

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(N, Cin, H, W) float -> (N, Cout, H, W); ``group`` is not used."""
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


class WholeLayer(BinaryLayer):
    """scale conv(sign(x), sign(W)) + bypass(x): BinaryConv with its shortcut and nothing else."""

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(N, Cin, H, W) float -> (N, Cout, H, W); ``group`` is not used."""
        low = autocast_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if low else x
            return sum_of_signs(self.bits(x), self.scaled(), self.padding, low) + self.residual(x)

    node = forward

    def bits(self, x: Tensor) -> Tensor:
        """sign(x) with the method's gradient."""
        raise NotImplementedError

    def scaled(self) -> Tensor:
        """The weights' signs times their scale, with the method's gradient."""
        raise NotImplementedError

    def constants(self, group: int) -> dict[str, Tensor]:
        return {"alpha": self.scaled().detach()[:, 0, 0, 0].abs()}


class BnnConv2d(WholeLayer):
    """conv(sign(x), sign(W)) + bypass(x), arXiv 1602.02830; gradients pass where |x| <= 1 and, as
    weights are clipped there, where |W| <= 1."""

    def bits(self, x: Tensor) -> Tensor:
        return clipped_sign(x)

    def scaled(self) -> Tensor:
        return clipped_sign(self.weight)


class DoReFaConv2d(PlainLayer):
    """a conv([x >= 1/2], sign(W)) + bypass(x), arXiv 1606.06160, a the mean |W| of the layer.

    A bit is half of a sign and 1, so the node has half of a, and a convolution of ones the rest,
    whose taps beyond the border count 0 as the node's do. Gradients pass where 0 <= x <= 1, and to
    weights as they are.
    """

    share = 0.5

    def compute(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        ones = torch.ones_like(x[:1, :1])
        offset = F.conv2d(ones, self._halves().sum(1, keepdim=True), padding=self.padding)
        return self.node(x, low=low) + offset

    def node(self, x: Tensor, group: Tensor | None = None,
             low: torch.dtype | None = None) -> Tensor:
        bits = level_sign(x)
        return sum_of_signs(bits, self._halves(), self.padding, low) + self.residual(x)

    def _halves(self) -> Tensor:
        return passed_weight(self.weight, self._scale()) / 2

    def _scale(self) -> Tensor:
        scale = self.weight.detach().abs().mean(dtype=torch.float64)
        return scale.to(self.weight.dtype)

    def constants(self, group: int) -> dict[str, Tensor]:
        outputs, inputs = self.weight.shape[:2]
        return {"alpha": (self._scale() / 2).expand(outputs),
                "threshold": self.weight.new_full((inputs,), -DOREFA_LEVEL)}


class IrNetConv2d(WholeLayer):
    """2^s conv(sign(x), sign(W')) + bypass(x), arXiv 1909.10788; W' = (W - mean W) / std W of each
    filter, s = round(log2(mean |W'|)).

    Both signs have the gradient of ``estimated_sign``; s has none. ``progress`` is the share of the
    training that is done, which ``set_progress`` sets.
    """

    progress: Tensor

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(inputs, outputs, kernel_size)
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def bits(self, x: Tensor) -> Tensor:
        return estimated_sign(x, self.progress)

    def scaled(self) -> Tensor:
        centred = self._centred()
        variance = centred.square().sum((1, 2, 3), keepdim=True) / max(1, centred[0].numel() - 1)
        standard = centred / torch.where(variance > 0, variance, 1).sqrt()
        ratio = standard.detach().abs().mean((1, 2, 3), keepdim=True)
        scale = torch.where(ratio > 0, ratio, 1).log2().round().exp2()
        return (estimated_sign(standard, self.progress) * scale).to(self.weight.dtype)

    def signs(self) -> Tensor:
        return signs(self._centred()).to(self.weight.dtype)

    def _centred(self) -> Tensor:
        """W - mean W in float64: whether it is negative must not depend on the order of a sum."""
        wide = self.weight.double()
        return wide - wide.mean((1, 2, 3), keepdim=True)


class XnorConv2d(PlainLayer):
    """alpha K conv(sign(x), sign(W)) + bypass(x), arXiv 1603.05279.

    K (N, 1, H, W) is the mean of |x| over channels, then over each kernel window, padded with
    zeros. Gradients are the paper's: 1 where |x| <= 1 for the sign, as in Binarized Neural Networks
    (arXiv 1602.02830), g (1 / n + alpha [|W| <= 1]) for a weight, n the size of a filter; K is
    differentiated as it is.
    """

    shortcut = False

    def compute(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        k = self.weight.shape[-1]
        magnitude = F.avg_pool2d(x.abs().mean(1, keepdim=True), k, 1, self.padding)
        return self.node(x, low=low) * magnitude + self.residual(x)

    def node(self, x: Tensor, group: Tensor | None = None,
             low: torch.dtype | None = None) -> Tensor:
        scaled = xnor_weight(self.weight, weight_scale(self.weight))
        return sum_of_signs(clipped_sign(x), scaled, self.padding, low)
