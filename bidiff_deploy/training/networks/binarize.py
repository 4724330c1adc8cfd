"""Signs with gradients: the two binarisers of BI-DiffSR, and its binary layer.

Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (arXiv 2406.05723),
section 3.2. The activation's gradient is that of Bi-Real Net (arXiv 1808.00278), the weight's the
clipped straight-through estimator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .fused import SignFunction, apply, binary_conv2d, bypass, passed_by_clamp, signs

INITIAL_SLOPE = 0.25


class _SignActivation(SignFunction):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # The slope is 2 - 2|x| inside (-1, 1); at -1 and 1 it is 0 from both sides.
        return grad * (2 - 2 * x.abs()).clamp_min(0)


class _SignWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return signs(weight).mul_(alpha)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return passed_by_clamp(grad, weight), None


def sign_activation(x: Tensor) -> Tensor:
    """+1 where ``x >= 0`` (so for both zeros), -1 elsewhere; same shape and dtype.

    Gradient: that of the piecewise polynomial x (2 - |x|) clipped to [-1, 1], which is 2 + 2x on
    [-1, 0), 2 - 2x on [0, 1) and 0 outside.
    """
    return apply(_SignActivation, x)


def weight_scale(weight: Tensor) -> Tensor:
    """alpha, the mean magnitude per output channel: (Cout, Cin, k, k) -> (Cout, 1, 1, 1).

    Has no gradient. The mean is computed in float64, so that alpha is exact for a filter whose
    values all have one magnitude (a packed checkpoint read back).
    """
    return (weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
            .to(weight.dtype))


def sign_weight(weight: Tensor) -> Tensor:
    """alpha * sign(weight), with sign(0) = +1; the gradient is that of clamp(weight, -1, 1)."""
    return apply(_SignWeight, weight, weight_scale(weight))


class BinaryLayer(nn.Module):
    """A binary layer, Cin -> Cout channels, called with a map and the group's index.

    fused     whether the layer is BinaryConv with its shortcut and RPReLU and nothing else
    shortcut  whether the BinaryConv node in its graph adds the layer's shortcut
    share     the node's alpha over the weights' own scale
    adds_previous  whether the node adds the output of the node before it, which is ``forward``'s
              third argument

    ``node_input``, ``node`` and ``constants`` are the input, output and constants of the BinaryConv
    node in its graph, for comparisons in ``proof``.
    """

    fused = shortcut = True
    share = 1.0
    adds_previous = False

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def nodes(self, name: str) -> Iterator[tuple[str, BinaryLayer]]:
        """The layer of each BinaryConv node that this layer, called ``name``, is in its graph, by
        its name there, in order of execution."""
        yield name, self

    def residual(self, x: Tensor) -> Tensor:
        """The shortcut, (N, Cin, H, W) -> (N, Cout, H, W)."""
        return bypass(x, len(self.weight))

    def signs(self) -> Tensor:
        """The node's weights, +1 and -1, (Cout, Cin, k, k)."""
        return signs(self.weight)

    def node_input(self, x: Tensor, group: Tensor) -> Tensor:
        """The node's input for the layer's input ``x``, (N, Cin, H, W)."""
        return x

    def node(self, x: Tensor, group: Tensor) -> Tensor:
        """The node's output for its input ``x``, (N, Cout, H, W)."""
        raise NotImplementedError

    def constants(self, group: int) -> dict[str, Tensor]:
        """The node's alpha, and shift_in, slope and shift_out unless neutral, (Cout,) each, and
        its threshold unless 0, (Cin,)."""
        raise NotImplementedError


class BinaryConv2d(BinaryLayer):
    """BIConv: RPReLU(conv(sign(x + threshold), alpha * sign(W))) + x.

    The timestep's group selects ``threshold``, (groups, Cin) (TaR), and ``shift_in``, ``slope``,
    ``shift_out``, (groups, Cout) each (TaA). The convolution is zero-padded after the sign, so taps
    beyond the border contribute 0, not +-1.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, groups: int) -> None:
        super().__init__(inputs, outputs, kernel_size)
        self.threshold = nn.Parameter(torch.zeros(groups, inputs))
        self.shift_in = nn.Parameter(torch.zeros(groups, outputs))
        self.slope = nn.Parameter(torch.full((groups, outputs), INITIAL_SLOPE))
        self.shift_out = nn.Parameter(torch.zeros(groups, outputs))

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(N, Cin, H, W) float and the group's index, an int64 tensor (1,) -> (N, Cout, H, W)."""
        return binary_conv2d(x, self.weight, weight_scale(self.weight), self.threshold,
                             self.shift_in, self.slope, self.shift_out, group, self.padding)

    node = forward

    def constants(self, group: int) -> dict[str, Tensor]:
        return {"alpha": weight_scale(self.weight).flatten(),
                **{part: getattr(self, part)[group]
                   for part in ("threshold", "shift_in", "slope", "shift_out")}}
