"""Bounds of float32's rounding errors, computed along with the torch reference itself.

A ``Bounded`` is a value in float64 and, elementwise, a bound of the error that an engine makes when
it computes that value in float32. Torch's functions accept it in place of a tensor, so that a
network runs on it unchanged. Bounds are sums of numbers that are not negative, and float32 holds
them well enough: MARGIN is more than what their own computation loses.

This is running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
chapter 3): with the unit roundoff u = 2^-24,

    a sum of n products, in any order, with or without fused multiply-add, has an error of at most
    gamma(n) sum |w| |x|,  gamma(n) = n u / (1 - n u)                     (Higham, equation 3.5)

and errors e of the inputs add sum |w| e. Factors that are rounded to a shorter type first, of unit
roundoff f, add (2 f + f^2) sum |w| |x|.

Winograd's convolution y = A^T [(G g G^T) * (B^T d B)] A is such a sum of products too, of more and
larger terms: its error is at most gamma(n) |A^T| [sum over channels of (|G g G^T|) *
(|B^T| |d| |B|)] |A|, n the roundings on the way from an input to an output.

Values below 2^-126 may be flushed to zero, which TINY covers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .arithmetic import (
    AVERAGE,
    EXP,
    MARGIN,
    SWISH,
    SWISH_SLOPE,
    TINY,
    WINOGRAD,
    Arithmetic,
    gamma,
)
from .rounding_norms import group_norm, layer_norm
from .rounding_scan import selective_scan
from .winograd import winograd_size


class Bounded:
    """``value`` float64, and ``error`` float32 of the same shape; see the module.

    ``exact``: whether all errors are known to be 0.
    """

    def __init__(self, value: Tensor, error: Tensor, arithmetic: Arithmetic,
                 exact: bool = False) -> None:
        self.value, self.error, self.arithmetic = value, error.float(), arithmetic
        self.exact = exact

    @classmethod
    def without_error(cls, value: Any, arithmetic: Arithmetic) -> Bounded:
        """A value that an engine has without error: its own, or a constant (a number is float32
        there too)."""
        wide = torch.as_tensor(value).double()
        return cls(wide, torch.zeros((), dtype=torch.float32).expand(wide.shape), arithmetic, True)

    @property
    def bound(self) -> Tensor:
        """The error's bound, above 0, float32."""
        return self.error * MARGIN + TINY

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def device(self) -> torch.device:
        return self.value.device

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Sequence[Any] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        return _call(function.__name__.strip("_"), args, kwargs or {})

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name == "float":
            return lambda: self
        if name not in _RULES and name not in _MOVES:
            raise AttributeError(f"no rounding rule for {name}")
        return lambda *args, **kwargs: _call(name, (self, *args), kwargs)

    def __add__(self, other: Any) -> Bounded:
        return _add(self, other)

    def __sub__(self, other: Any) -> Bounded:
        return _add(self, -1 * self._like(other))

    def __mul__(self, other: Any) -> Bounded:
        return _mul(self, other)

    def __truediv__(self, other: Any) -> Bounded:
        # Engines may multiply by a rounded reciprocal.
        return self._rounded(self.value / other, self.error / abs(other), 3)

    def __matmul__(self, other: Bounded) -> Bounded:
        return _product(torch.matmul, self, other, self.shape[-1])

    def __getitem__(self, index: Any) -> Bounded:
        return Bounded(self.value[index], self.error[index], self.arithmetic)

    __radd__, __rmul__ = __add__, __mul__

    def _like(self, other: Any) -> Bounded:
        if isinstance(other, Bounded):
            return other
        return Bounded.without_error(other, self.arithmetic)

    def _rounded(self, value: Tensor, error: Tensor, roundings: float,
                 size: Tensor | None = None) -> Bounded:
        """``value`` after ``roundings`` of partial results no larger than ``size`` (by default the
        value)."""
        size = value.abs() if size is None else size
        return Bounded(value, error + gamma(roundings) * (size + error), self.arithmetic)


def _call(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if name in _RULES:
        return _RULES[name](*args, **kwargs)
    if name not in _MOVES:
        raise NotImplementedError(f"no rounding rule for {name}")
    first = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]

    def run(part: str) -> Any:
        given = ([getattr(item, part) for item in args[0]] if args[0] is not first
                 else getattr(first, part))
        move = next(getattr(where, name) for where in (torch, F, Tensor) if hasattr(where, name))
        return move(given, *args[1:], **kwargs)

    values, errors = run("value"), run("error")
    if isinstance(values, Tensor):
        return Bounded(values, errors, first.arithmetic)
    return tuple(Bounded(*both, first.arithmetic) for both in zip(values, errors))


# Operations that only move values.
_MOVES = {"cat", "chunk", "split", "unbind", "unflatten", "flatten", "reshape", "transpose",
          "contiguous", "detach", "pad", "pixel_shuffle", "pixel_unshuffle", "repeat_interleave"}


def _add(first: Any, second: Any) -> Bounded:
    self = first if isinstance(first, Bounded) else second
    a, b = self._like(first), self._like(second)
    return self._rounded(a.value + b.value, a.error + b.error, 1)


def _mul(first: Any, second: Any) -> Bounded:
    self = first if isinstance(first, Bounded) else second
    return _product(torch.mul, self._like(first), self._like(second), 0)


def _product(multiply: Callable[[Tensor, Tensor], Tensor], a: Bounded, b: Bounded,
             terms: int) -> Bounded:
    """A bilinear sum of ``terms`` products: ``multiply(a, b)``."""
    x, w, f = a.value.abs().float(), b.value.abs().float(), a.arithmetic.factor
    relative = gamma(terms + 1) + (f * (2 + f) if terms else 0)
    error = multiply(a.error * (1 + relative) + x * relative, w + b.error)
    if not b.exact:
        error = error + multiply(x, b.error)
    return Bounded(multiply(a.value, b.value), error, a.arithmetic)


def _conv2d(x: Bounded, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
            padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Bounded:
    def multiply(value: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(value, kernel, None, stride, padding, dilation, groups)

    if x.arithmetic.winograd and weight.shape[2:] == (3, 3) and groups == 1:
        f = x.arithmetic.factor
        size = functools.reduce(torch.maximum, (
            winograd_size(x.value.abs().float(), weight, points) for points in x.arithmetic.points))
        relative = gamma(x.shape[1] + WINOGRAD) + f * (2 + f)
        error = multiply(x.error, weight.abs().float()) * (1 + relative) + relative * size
        if x.arithmetic.direct:
            error = torch.maximum(
                error, _product(multiply, x, x._like(weight), weight[0].numel()).error)
        found = Bounded(multiply(x.value, weight), error, x.arithmetic)
    else:
        found = _product(multiply, x, x._like(weight), weight[0].numel())
    return found if bias is None else _add(found, bias.view(-1, 1, 1))


def _linear(x: Bounded, weight: Tensor, bias: Tensor | None = None) -> Bounded:
    found = _product(F.linear, x, x._like(weight), weight.shape[1])
    return found if bias is None else _add(found, bias)


def _silu(x: Bounded, inplace: bool = False) -> Bounded:
    return x._rounded(F.silu(x.value), SWISH_SLOPE * x.error, SWISH, x.value.abs())


def _softmax(x: Bounded, dim: int = -1) -> Bounded:
    gap = (x.value.amax(dim, keepdim=True) - x.value).float()
    # Of each term, relative: exp of an error in its argument; of their sum the largest such error.
    exponent = x.error + x.error.amax(dim, keepdim=True) + gamma(3) * gap
    relative = torch.expm1(exponent) + torch.expm1(exponent.amax(dim, keepdim=True))
    value = x.value.softmax(dim)
    return x._rounded(value, value.float() * relative, x.shape[dim] + 2 * EXP + 2)


def _prelu(x: Bounded, slope: Tensor) -> Bounded:
    shape = [1, -1] + [1] * (len(x.shape) - 2)
    return _leaky_relu(x, slope.reshape(shape) if slope.numel() > 1 else slope)


def _leaky_relu(x: Bounded, negative_slope: Any = 0.01, inplace: bool = False) -> Bounded:
    value = torch.where(x.value < 0, x.value * negative_slope, x.value)
    steepest = torch.as_tensor(negative_slope, dtype=torch.float32).abs().clamp_min(1)
    return x._rounded(value, steepest * x.error, 1)


def _abs(x: Bounded) -> Bounded:
    return Bounded(x.value.abs(), x.error, x.arithmetic)


def _exp(x: Bounded) -> Bounded:
    value = x.value.exp()
    return x._rounded(value, value.float() * torch.expm1(x.error), EXP)


def _mean(x: Bounded, dim: Any = None, keepdim: bool = False) -> Bounded:
    dims = list(range(len(x.shape))) if dim is None else [dim] if isinstance(dim, int) else dim
    terms = math.prod(x.shape[axis] for axis in dims)
    return x._rounded(x.value.mean(dims, keepdim), x.error.mean(dims, keepdim), terms + AVERAGE,
                      x.value.abs().mean(dims, keepdim))


def _heaviside(x: Bounded, at_zero: Tensor) -> Bounded:
    """0 or 1; either is right where rounding decides."""
    value = torch.heaviside(x.value, at_zero.to(x.value.dtype))
    return Bounded(value, (x.value.abs() <= x.bound).float(), x.arithmetic)


def _ones_like(x: Bounded) -> Bounded:
    return Bounded.without_error(torch.ones_like(x.value), x.arithmetic)


def _avg_pool2d(x: Bounded, size: int, stride: int, padding: int, ceil_mode: bool = False,
                count_include_pad: bool = True) -> Bounded:
    def pool(part: Tensor) -> Tensor:
        return F.avg_pool2d(part, size, stride, padding, ceil_mode, count_include_pad)

    return x._rounded(pool(x.value), pool(x.error), size * size + AVERAGE, pool(x.value.abs()))


def _fake_quantize(x: Bounded, scale: float, zero_point: int, least: int, most: int) -> Bounded:
    """Whole numbers times ``scale``. Where rounding moves a value past a half, the next whole
    number is as right, and one further for each further half."""
    ratio = x.value / scale
    slack = x.error / scale + gamma(3) * ratio.abs().float()
    from_half = (ratio - ratio.floor() - 0.5).abs().float()
    steps = (slack - from_half).floor().add_(1).clamp_min_(0)
    inside = (ratio - slack < most) & (ratio + slack > least)
    value = ratio.round().clamp(least, most) * scale
    return x._rounded(value, torch.where(inside, steps * scale, 0), 1)


def _dropout(x: Bounded, p: float, training: bool, inplace: bool = False) -> Bounded:
    assert not training, "a network in training is no reference"
    return x


def _interpolate(x: Bounded, **options: Any) -> Bounded:
    """Bilinear: two products a sum, twice, with weights that are rounded."""
    def enlarge(part: Tensor) -> Tensor:
        return F.interpolate(part, **options)

    return x._rounded(enlarge(x.value), enlarge(x.error), 16, enlarge(x.value.abs()))


_RULES: dict[str, Callable[..., Any]] = {
    "add": _add, "radd": _add, "mul": _mul, "rmul": _mul, "conv2d": _conv2d, "linear": _linear,
    "group_norm": group_norm, "layer_norm": layer_norm, "selective_scan": selective_scan,
    "silu": _silu, "softmax": _softmax, "prelu": _prelu, "leaky_relu": _leaky_relu, "abs": _abs,
    "exp": _exp, "mean": _mean, "fake_quantize_per_tensor_affine": _fake_quantize,
    "heaviside": _heaviside, "ones_like": _ones_like, "dropout": _dropout,
    "avg_pool2d": _avg_pool2d, "interpolate": _interpolate}
