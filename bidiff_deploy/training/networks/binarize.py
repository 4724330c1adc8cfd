"""Signs with gradients: the two binarisers of BI-DiffSR and the convolution built on them.

Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution" (arXiv 2406.05723),
section 3.2. The activation's gradient is that of Bi-Real Net (arXiv 1808.00278), the weight's the
clipped straight-through estimator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .fused import binary_conv2d, passed_by_clamp, signs

INITIAL_SLOPE = 0.25


class _SignActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # The slope is 2 - 2|x| inside (-1, 1); at -1 and 1 it is 0 from both sides.
        return grad * (2 - 2 * x.abs()).clamp_min(0)


class _SignWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return signs(weight).mul_(alpha)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return passed_by_clamp(grad, weight), None


def sign_activation(x: Tensor) -> Tensor:
    """+1 where ``x >= 0`` (so for both zeros), -1 elsewhere; same shape and dtype.

    Gradient: that of the piecewise polynomial x (2 - |x|) clipped to [-1, 1], which is 2 + 2x on
    [-1, 0), 2 - 2x on [0, 1) and 0 outside.
    """
    return _SignActivation.apply(x)


def weight_scale(weight: Tensor) -> Tensor:
    """alpha, the mean magnitude per output channel: (Cout, Cin, k, k) -> (Cout, 1, 1, 1).

    Carries no gradient. The mean is taken in float64, so that a filter whose values all have one
    magnitude (a packed checkpoint read back) has exactly that alpha.
    """
    return (weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
            .to(weight.dtype))


def sign_weight(weight: Tensor) -> Tensor:
    """alpha * sign(weight), zeros as +; the gradient passes through clamp(weight, -1, 1) alone."""
    return _SignWeight.apply(weight, weight_scale(weight))


class BinaryLayer(nn.Module):
    """What stands in a binary layer, C -> C: called with a map and the group's index.

    fused     whether it is BinaryConv with its shortcut and RPReLU and nothing else
    shortcut  whether its graph's BinaryConv adds its own input

    ``node_input``, ``node`` and ``constants`` tell what the one BinaryConv node of its graph reads,
    gives and holds, so that a proof can look inside.
    """

    fused = shortcut = True

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def node_input(self, x: Tensor, group: Tensor) -> Tensor:
        """What the node reads where the layer reads ``x``, (N, C, H, W)."""
        return x

    def node(self, x: Tensor, group: Tensor) -> Tensor:
        """What the node gives of what it reads, (N, C, H, W)."""
        raise NotImplementedError

    def constants(self, group: int) -> dict[str, Tensor]:
        """The node's alpha, and its threshold, shift_in, slope and shift_out unless they are
        neutral; (C,) each."""
        raise NotImplementedError


class BinaryConv2d(BinaryLayer):
    """BIConv, C -> C: RPReLU(conv(sign(x + threshold), alpha * sign(W))) + x.

    The timestep's group picks ``threshold`` (TaR) and ``shift_in``, ``slope``, ``shift_out``
    (TaA), each (groups, C). The convolution is zero-padded after the sign, so taps beyond the
    border contribute 0 and not +-1.
    """

    def __init__(self, channels: int, kernel_size: int, groups: int) -> None:
        super().__init__(channels, kernel_size)
        self.threshold = nn.Parameter(torch.zeros(groups, channels))
        self.shift_in = nn.Parameter(torch.zeros(groups, channels))
        self.slope = nn.Parameter(torch.full((groups, channels), INITIAL_SLOPE))
        self.shift_out = nn.Parameter(torch.zeros(groups, channels))

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(N, C, H, W) float and the group's index, an int64 tensor (1,) -> (N, C, H, W)."""
        return binary_conv2d(x, self.weight, weight_scale(self.weight), self.threshold,
                             self.shift_in, self.slope, self.shift_out, group, self.padding)

    node = forward

    def constants(self, group: int) -> dict[str, Tensor]:
        return {"alpha": weight_scale(self.weight).flatten(),
                **{part: getattr(self, part)[group]
                   for part in ("threshold", "shift_in", "slope", "shift_out")}}
