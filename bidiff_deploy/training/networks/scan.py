"""The selective scan in torch, with gradients; ``operators.scan_function`` defines it.

A scan is sequential, and torch's operations are fast on many values at once. So it is cut into
about sqrt(L) pieces of as many pixels: the pieces are scanned side by side from zero, their ends
one after another, and what enters a piece is added with the product of its decays. Decays are at
most 1, so nothing overflows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

__all__ = ["SelectiveScan", "linear_scan", "ordered", "selective_scan", "unordered"]

_LEAST_STEP, _MOST_STEP = 1e-3, 1e-1  # initial ones, drawn between their logarithms


def scanned(decay: Tensor, given: Tensor) -> Tensor:
    """h with h[l] = decay[l] h[l - 1] + given[l] and h[-1] = 0, along the first axis."""
    length = len(decay)
    piece = max(1, math.isqrt(length))
    missing = -length % piece
    if missing:
        decay, given = (torch.cat([value, value.new_zeros(missing, *value.shape[1:])])
                        for value in (decay, given))
    decay, given = (value.reshape(-1, piece, *value.shape[1:]) for value in (decay, given))
    h, product = torch.empty_like(given), torch.empty_like(decay)
    h[:, 0], product[:, 0] = given[:, 0], decay[:, 0]
    for at in range(1, piece):
        torch.addcmul(given[:, at], decay[:, at], h[:, at - 1], out=h[:, at])
        torch.mul(decay[:, at], product[:, at - 1], out=product[:, at])
    enters = torch.zeros_like(h[:, 0])
    for index in range(1, len(h)):
        torch.addcmul(h[index - 1, -1], product[index - 1, -1], enters[index - 1],
                      out=enters[index])
    h.addcmul_(product, enters[:, None])
    return h.flatten(0, 1)[:length]


class _LinearScan(torch.autograd.Function):
    """Its gradient is a scan in the opposite order."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, given: Tensor) -> Tensor:
        h = scanned(decay, given)
        ctx.save_for_backward(decay, h)
        return h

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        decay, h = ctx.saved_tensors
        after = torch.cat([decay[1:], torch.zeros_like(decay[:1])])
        g = scanned(after.flip(0), gradient.flip(0)).flip(0)
        before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
        return g * before, g


def linear_scan(decay: Tensor, given: Tensor) -> Tensor:
    """``scanned`` with gradients: decay in [0, 1] and given, (L, ...) each -> (L, ...)."""
    found: Tensor = _LinearScan.apply(decay, given)  # type: ignore[no-untyped-call]
    return found


def ordered(value: Tensor, columns: int, reverse: int) -> Tensor:
    """A map (N, C, H, W) as pixels in the order of a scan, (H W, N, C)."""
    flat = (value.transpose(2, 3) if columns else value).flatten(2).permute(2, 0, 1)
    return flat.flip(0) if reverse else flat


def unordered(value: Tensor, columns: int, reverse: int, height: int, width: int) -> Tensor:
    """The inverse of ``ordered``."""
    flat = (value.flip(0) if reverse else value).permute(1, 2, 0)
    if columns:
        return flat.reshape(*flat.shape[:2], width, height).transpose(2, 3)
    return flat.reshape(*flat.shape[:2], height, width)


def selective_scan(x: Tensor, delta: Tensor, b: Tensor, c: Tensor, a: Tensor, skip: Tensor,
                   columns: int, reverse: int) -> Tensor:
    """The operator SelectiveScan: x, delta (N, C, H, W), b, c (N, S, H, W), a (C, S), skip (C) ->
    (N, C, H, W)."""
    if has_torch_function((x, delta, b, c)):
        found: Tensor = handle_torch_function(selective_scan, (x, delta, b, c), x, delta, b, c, a,
                                              skip, columns, reverse)
        return found
    u, step, b, c = (ordered(value, columns, reverse) for value in (x, F.softplus(delta), b, c))
    h = linear_scan((step[..., None] * a).exp(), (step * u)[..., None] * b[:, :, None])
    y = (h @ c[..., None])[..., 0]
    return unordered(y, columns, reverse, *x.shape[2:]) + skip.view(-1, 1, 1) * x


class SelectiveScan(nn.Module):
    """A selective scan of ``inner`` channels with ``states`` states each.

    Initial values are those of Mamba: a = -1, -2, ..., skip = 1.
    """

    def __init__(self, inner: int, states: int, columns: int, reverse: int) -> None:
        super().__init__()
        self.columns, self.reverse = columns, reverse
        self.log_a = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))

    def forward(self, x: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """(N, C, H, W) twice and (N, S, H, W) twice -> (N, C, H, W), float32 under autocast."""
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return selective_scan(_wide(x), _wide(delta), _wide(b), _wide(c), -self.log_a.exp(),
                                  self.skip, self.columns, self.reverse)


def _wide(value: Tensor) -> Tensor:
    """A value in at least float32."""
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


def initial_steps(channels: int) -> Tensor:
    """Biases (C) whose softplus is between 0.001 and 0.1, as Mamba begins."""
    step = torch.exp(torch.empty(channels).uniform_(math.log(_LEAST_STEP), math.log(_MOST_STEP)))
    return step + torch.log(-torch.expm1(-step))
