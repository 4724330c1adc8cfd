"""DoReFa-Net's layer of several bits: quantised in training, a sum of products of bit planes after.

``networks.bi_diffsr.bit_planes`` describes the planes. With gradients one convolution of the codes
computes what the planes' convolutions add up to: both are whole numbers times one scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks.bi_diffsr.binarizers import DOREFA_LEVEL
from ...networks.bi_diffsr.bit_planes import Plane, bit_planes, move
from .binarize import BinaryLayer
from .fused import apply, autocast_dtype, signs
from .sign_functions import passed_weight, sum_of_signs


class BitPlaneConv2d(BinaryLayer):
    """conv(q(x), W) + bypass(x), arXiv 1606.06160: q(x) the nearest of 2^m values from 0 to 1, W of
    k bits.

    Gradients are the paper's: they pass through rounding as they are, through q where 0 <= x <= 1,
    and to weights of one bit as they are; tanh and its maximum are differentiated.
    """

    fused = False
    one: Tensor

    def __init__(self, inputs: int, outputs: int, kernel_size: int, weight_bits: int,
                 activation_bits: int) -> None:
        super().__init__(inputs, outputs, kernel_size)
        self.bits = weight_bits, activation_bits
        self.planes = nn.ModuleList(BitPlane(self, plane)
                                    for plane in bit_planes(weight_bits, activation_bits))
        self.register_buffer("one", torch.ones(()), persistent=False)

    def nodes(self, name: str) -> Iterator[tuple[str, BinaryLayer]]:
        for index, plane in enumerate(self.planes):
            assert isinstance(plane, BinaryLayer)
            yield f"{name}.planes.{index}", plane

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(N, Cin, H, W) float -> (N, Cout, H, W); ``group`` is not used."""
        low = autocast_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if low else x
            if torch.is_grad_enabled():
                return self._convolved(x, low) + self.residual(x)
            return self._planes(x, group)

    def _planes(self, x: Tensor, group: Tensor) -> Tensor:
        """As the graph computes it."""
        residue, y = x, self.residual(x)
        for plane in self.planes:
            assert isinstance(plane, BitPlane)
            if plane.begins:
                residue = self._moved(residue, plane.plane.activation + 1)
            y = plane(residue, group, y)
        ones = torch.ones_like(x[:1, :1])
        halves = self.weights().detach().sum(1, keepdim=True) / 2
        return y + F.conv2d(ones, halves, padding=self.padding)

    def _moved(self, residue: Tensor, plane: int) -> Tensor:
        """The residue of the next smaller bit."""
        to_next = move(plane, self.bits[1])
        bit = torch.heaviside(residue - to_next.at, self.one)
        return residue + (bit * to_next.step + to_next.below)

    def _convolved(self, x: Tensor, low: torch.dtype | None) -> Tensor:
        """conv(q(x), W) with gradients."""
        most = (1 << self.bits[1]) - 1
        codes = apply(_Codes, x, self.bits[1])
        if self.bits[0] == 1:
            return sum_of_signs(codes, self.weights() / most, self.padding, low)
        scale = (1 << self.bits[0]) - 1
        odd = self._odd().to(low or x.dtype)
        sums = F.conv2d(codes.to(odd.dtype), odd, padding=self.padding)
        return sums.to(x.dtype) / (most * scale)

    # -- weights ----------------------------------------------------------------------------------
    def weights(self) -> Tensor:
        """W, the quantised weights, (Cout, Cin, k, k)."""
        if self.bits[0] == 1:
            return passed_weight(self.weight, self._mean())
        return (self._odd() / ((1 << self.bits[0]) - 1)).to(self.weight.dtype)

    def _odd(self) -> Tensor:
        """Odd numbers, float64: the weights of several bits times 2^k - 1."""
        most, squashed = (1 << self.bits[0]) - 1, self.weight.double().tanh()
        largest = squashed.abs().max()
        share = squashed / (2 * torch.where(largest > 0, largest, 1)) + 0.5
        return 2 * apply(_Rounded, most * share) - most

    def _mean(self) -> Tensor:
        mean = self.weight.detach().abs().mean(dtype=torch.float64)
        return mean.to(self.weight.dtype)

    def plane_signs(self, index: int) -> Tensor:
        """Bit ``index`` of the weights, +1 and -1."""
        if self.bits[0] == 1:
            return signs(self.weight)
        codes = (self._odd().detach().long() + (1 << self.bits[0]) - 1) // 2
        return (2 * (codes >> index & 1) - 1).to(self.weight.dtype)

    def plane_scale(self, index: int) -> Tensor:
        """The scale of bit ``index`` of the weights, a scalar."""
        if self.bits[0] == 1:
            return self._mean()
        return self.weight.new_tensor(2.0 ** index / ((1 << self.bits[0]) - 1))


class BitPlane(BinaryLayer):
    """One BinaryConv of a ``BitPlaneConv2d``, which adds the sum of those before it."""

    fused = False

    def __init__(self, owner: BitPlaneConv2d, plane: Plane) -> None:
        nn.Module.__init__(self)  # without weights of its own
        self.padding, self.plane = owner.padding, plane
        most = owner.bits[1] - 1
        self.top = plane.activation == most
        self.begins = not self.top and plane.weight == 0  # a new bit of the activations
        self.shortcut = self.top and plane.weight == 0
        self.adds_previous = not self.shortcut
        self._owner = (owner,)  # no module of this one

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]  # the owner's
        return self._owner[0].weight

    def forward(self, x: Tensor, group: Tensor, previous: Tensor) -> Tensor:
        """The node's output for the residue ``x``, (N, Cin, H, W), and the sum so far."""
        return self.node(x, group, previous)

    def node(self, x: Tensor, group: Tensor, previous: Tensor | None = None) -> Tensor:
        bits = signs(x - DOREFA_LEVEL if self.top else x)
        sums = F.conv2d(bits, self.signs(), padding=self.padding)
        y = sums * self.constants(0)["alpha"].view(1, -1, 1, 1)
        return y + (self.residual(x) if previous is None else previous)

    def signs(self) -> Tensor:
        return self._owner[0].plane_signs(self.plane.weight)

    def constants(self, group: int) -> dict[str, Tensor]:
        outputs, inputs = self.weight.shape[:2]
        scale = self._owner[0].plane_scale(self.plane.weight)
        alpha = (scale.double() * self.plane.share).to(self.weight.dtype)
        found = {"alpha": alpha.expand(outputs)}
        if self.top:
            found["threshold"] = self.weight.new_full((inputs,), -DOREFA_LEVEL)
        return found


class _Codes(torch.autograd.Function):
    """round((2^bits - 1) clip(x, 0, 1)), found bit by bit as the planes are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.most = (1 << bits) - 1
        codes, residue = torch.zeros_like(x), x
        for plane in reversed(range(bits)):
            at = DOREFA_LEVEL if plane == bits - 1 else 0.0
            codes += (residue >= at) * 2 ** plane
            if plane:
                to_next = move(plane, bits)
                residue = residue + torch.where(residue >= at, to_next.above, to_next.below)
        return codes

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.most * grad * ((x >= 0) & (x <= 1)), None


class _Rounded(torch.autograd.Function):
    """The nearest whole number, half up; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad
