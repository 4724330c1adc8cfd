"""Quantised layers in torch: with bounds that are trained, and as a bundle of int8 computes them.

The quantiser and its gradients are those of 2DQuant (arXiv 2406.06649): the rounding passes them
straight through, values outside the bounds pass theirs to the bound.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks.quantised import (
    MAP_LEVELS,
    WEIGHT_LEVELS,
    Array,
    LayerBounds,
    weight_integers,
)
from ...operators.value_names import short
from .fused import apply

__all__ = ["Int8Conv2d", "QuantisedConv2d", "fake_quantise", "int8_network",
           "quantised_layer", "replace_layers"]

LEAST, MOST = -128, 127  # QuantizeLinear saturates here
M = TypeVar("M", bound=nn.Module)


class _FakeQuantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, steps: int) -> Tensor:
        scale = (upper - lower) / steps
        exact = (x.clamp(lower, upper) - lower) / scale
        whole = exact.round()
        ctx.save_for_backward(x, lower, upper, (whole - exact) / steps)
        return whole * scale + lower

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, lower, upper, moved = ctx.saved_tensors
        below, above = x <= lower, x >= upper

        def total(part: Tensor, bound: Tensor) -> Tensor:
            return (grad * part).sum_to_size(bound.shape)

        return (grad * ~(below | above), total(below.to(grad.dtype) - moved, lower),
                total(above.to(grad.dtype) + moved, upper), None)


def fake_quantise(x: Tensor, lower: Tensor, upper: Tensor, steps: int) -> Tensor:
    """``x`` rounded to the nearest of the ``steps`` + 1 values from ``lower`` to ``upper``, which
    broadcast against it; as published ``steps`` is 2^bits - 1 and the bounds are single numbers."""
    return apply(_FakeQuantise, x, lower, upper, steps)


class QuantisedConv2d(nn.Module):
    """A convolution with symmetric quantisers of input, weight and output, whose bounds alone are
    trained.

    The parameters ``input``, ``weight`` and ``output`` are the bounds relative to those given, so
    that one learning rate fits all of them. ``bounds`` returns what they have become.
    """

    def __init__(self, conv: nn.Conv2d, bounds: LayerBounds, weight_levels: int = WEIGHT_LEVELS,
                 map_levels: int = MAP_LEVELS) -> None:
        super().__init__()
        self.conv = conv.requires_grad_(False)
        self.first, self.weight_levels, self.map_levels = bounds, weight_levels, map_levels
        self.input, self.output = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.weight = nn.Parameter(torch.ones(len(conv.weight)))

    def forward(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """(N, Cin, H, W) -> (N, Cout, H, W)."""
        x = self._through(x, self.input * self.first.input, self.map_levels)
        channels = self.weight * torch.from_numpy(self.first.weight)
        weight = self._through(self.conv.weight, channels.view(-1, 1, 1, 1), self.weight_levels)
        y = F.conv2d(x, weight, self.conv.bias, padding=self.conv.padding)
        return self._through(y, self.output * self.first.output, self.map_levels)

    def bounds(self) -> LayerBounds:
        first = self.first
        return LayerBounds(first.weight * self.weight.detach().numpy(),
                           first.input * self.input.item(), first.output * self.output.item())

    @staticmethod
    def _through(x: Tensor, bound: Tensor, levels: int) -> Tensor:
        return fake_quantise(x, -bound, bound, 2 * levels)


class Int8Conv2d(nn.Module):
    """A convolution whose input, weight and output are whole numbers times their scales, and its
    bias a whole number times the scale of its sums, as every engine adds it. In float64."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, input_scale: Array, weight_scale: Array,
                 output_scale: Array) -> None:
        """``conv``: the full-precision convolution; ``weight_scale``: float32 (Cout,)."""
        super().__init__()
        assert conv.bias is not None
        self.padding = conv.padding
        self.input_scale, self.output_scale = float(input_scale), float(output_scale)
        weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        whole = weight_integers(weight, weight_scale).astype(np.float64)
        sums = input_scale * weight_scale
        self.register_buffer("weight", torch.from_numpy(
            whole * weight_scale[:, None, None, None].astype(np.float64)))
        self.register_buffer("bias", torch.from_numpy(
            np.rint(bias / sums).astype(np.float64) * sums))

    def forward(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """(N, Cin, H, W) -> (N, Cout, H, W)."""
        x = torch.fake_quantize_per_tensor_affine(x, self.input_scale, 0, LEAST, MOST)
        y = F.conv2d(x, self.weight, self.bias, padding=self.padding)
        return torch.fake_quantize_per_tensor_affine(y, self.output_scale, 0, LEAST, MOST)


def replace_layers(network: M, names: Iterable[str],
                   make: Callable[[str, nn.Conv2d], nn.Module]) -> M:
    """A copy of a network with ``make(name, convolution)`` in place of the named convolutions. One
    that computes more has a method ``around``, which returns that around another convolution."""
    made = copy.deepcopy(network)
    for name in names:
        owner, _, child = name.rpartition(".")
        conv = made.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        around: Callable[[nn.Module], nn.Module] = getattr(conv, "around", lambda inner: inner)
        setattr(made.get_submodule(owner), child, around(make(name, conv)))
    return made


def quantised_layer(network: nn.Module, name: str) -> nn.Module:
    """What ``replace_layers`` made in place of a layer's convolution."""
    layer = network.get_submodule(name)
    return getattr(layer, "inner", layer)


def int8_network(network: M, names: Iterable[str], constants: Mapping[str, Array]) -> M:
    """A copy of a float32 network with the named layers in int8; ``constants``: values of a
    bundle's graph, which has their scales."""
    return replace_layers(network, names, lambda name, conv: Int8Conv2d(conv, *(
        np.asarray(constants[f"{short(name)}.{part}_scale"])
        for part in ("input", "weight", "output"))))
