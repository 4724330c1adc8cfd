"""The bound of a selective scan's rounding errors; see ``rounding``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .arithmetic import EXP, gamma
from .scan import ordered, scanned, unordered

Bounded = Any  # ``rounding.Bounded``, which imports this module

_SOFTPLUS = 12  # roundings: exp, a quotient, a series of terms that are not negative


def selective_scan(x: Bounded, delta: Bounded, b: Bounded, c: Bounded, a: Tensor, skip: Tensor,
                   columns: int, reverse: int) -> Bounded:
    """``scan.selective_scan``. A state's error e obeys the recurrence of the state itself, with
    decays that are enlarged by their own errors:

        e[l] = (d + e_d) e[l - 1] + e_d |h[l - 1]| + e_g + roundings of d h and of their sum
    """
    def both(value: Bounded) -> tuple[Tensor, Tensor]:
        return tuple(ordered(part.double(), columns, reverse)
                     for part in (value.value, value.error))  # type: ignore[return-value]

    (u, e_u), (wide, e_wide), (b_value, e_b), (c_value, e_c) = map(both, (x, delta, b, c))
    step = F.softplus(wide)
    e_step = torch.sigmoid(wide + e_wide) * e_wide + gamma(_SOFTPLUS) * step + \
        x.arithmetic.softplus

    step, e_step = step[..., None], e_step[..., None]
    a = a.double()
    decay = (step * a).exp()
    e_exponent = (e_step + gamma(1) * (step + e_step)) * a.abs()
    e_decay = decay * (torch.expm1(e_exponent) + gamma(EXP) * e_exponent.exp())

    def product(first: Tensor, e_first: Tensor, second: Tensor,
                e_second: Tensor) -> tuple[Tensor, Tensor]:
        value = first * second
        error = first.abs() * e_second + e_first * (second.abs() + e_second)
        return value, error + gamma(1) * (value.abs() + error)

    given, e_given = product(*product(step, e_step, u[..., None], e_u[..., None]),
                             b_value[:, :, None], e_b[:, :, None])
    h = scanned(decay, given)
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
    e_h = scanned(decay + e_decay, e_decay * before.abs() + e_given + gamma(3) * (
        decay * before.abs() + given.abs()))

    read, e_read = product(h, e_h, c_value[:, :, None], e_c[:, :, None])
    skipped = u * skip.double()
    e_y = e_read.sum(-1) + gamma(h.shape[-1] + 2) * (read.abs().sum(-1) + skipped.abs()) + \
        e_u * skip.abs()
    y = (read.sum(-1) + skipped, e_y)
    return type(x)(*(unordered(part, columns, reverse, *x.shape[2:]) for part in y), x.arithmetic)
