"""Bounds of rounding: float32's error never exceeds them, and they are not far above it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bidiff_deploy.engines import library
from bidiff_deploy.training.networks.arithmetic import (
    CUDNN,
    PACKED,
    STOCK,
    Arithmetic,
    gamma,
)
from bidiff_deploy.training.networks.rounding import Bounded
from bidiff_deploy.training.networks.scan import selective_scan
from bidiff_deploy.training.networks.winograd import winograd_matrices, winograd_size
from support.seeds import SEED, SOAK

CASES = 200 if SOAK else 3
# Torch adds in other orders than the op library, but in no longer chains than one after the other.
SERIAL = Arithmetic(winograd=False, lanes=1, block=None)


def draw(seed: int, *shape: int, spread: float = 3.0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return shift + spread * torch.randn(shape, generator=generator)


FUNCTIONS = {
    "conv": lambda x, w: F.conv2d(x, w(8, 8, 3, 3), w(8), padding=1),
    "linear": lambda x, w: F.linear(x, w(9, 12), w(9)),
    "norm": lambda x, w: F.silu(F.group_norm(x, 4, w(8), w(8))),
    "norm and conv": lambda x, w: F.conv2d(F.silu(F.group_norm(x, 4, w(8), w(8))), w(5, 8, 1, 1)),
    "two norms": lambda x, w: F.group_norm(x + F.silu(F.group_norm(x, 2, w(8), w(8))), 4),
    "softmax": lambda x, w: (x @ x.transpose(2, 3) / 7.3).softmax(dim=-1) @ x,
    "prelu": lambda x, w: F.prelu(x + w(8, 1, 1), w(8)) * 1.75 - w(8, 1, 1),
    "mean": lambda x, w: (x.abs().mean((1, 2), keepdim=True) * 0.03125).exp() * x,
    "pool": lambda x, w: F.avg_pool2d(x.abs(), 3, 1, 1) * x,
    "layer norm": lambda x, w: F.layer_norm(x + 5, (12,), w(12), w(12)) * x,
    "regions": lambda x, w: F.avg_pool2d(x, 4, 4, 0, True, False).repeat_interleave(2, 2),
    "scan": lambda x, w: selective_scan(x, x - 3, x[:, :4], x[:, 4:], -w(8, 4).abs(), w(8), 1, 1),
    "bilinear": lambda x, w: F.interpolate(x, scale_factor=2, mode="bilinear",
                                           align_corners=False)}


@pytest.mark.soak
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_stays_within_the_bound(name):
    """The bound is never exceeded, and is at most a few hundred times what is seen."""
    function, worst = FUNCTIONS[name], 0.0
    for seed in range(SEED, SEED + CASES):
        x = draw(seed, 2, 8, 10, 12, shift=seed % 3)

        def weights(*shape, dtype=torch.float64, seed=seed):
            return draw(seed + len(shape) + shape[0], *shape).to(dtype)

        exact = function(Bounded.without_error(x, SERIAL), weights)
        found = function(x, lambda *shape: weights(*shape, dtype=torch.float32))
        double = function(x.double(), weights)
        assert torch.allclose(double, exact.value, rtol=1e-12, atol=1e-12)
        ratio = ((found.double() - exact.value).abs() / exact.bound).max().item()
        assert ratio <= 1
        worst = max(worst, ratio)
    assert worst > 1e-3


def test_errors_of_inputs_are_carried():
    """Moving each input by its error, in the worst direction, moves a sum as much as is said."""
    weight = draw(0, 3, 8, 1, 1).double()
    x = Bounded(draw(1, 1, 8, 4, 4).double(), draw(2, 1, 8, 4, 4).abs(), PACKED)
    y = F.conv2d(x, weight)
    for channel in range(3):
        direction = weight[channel].sign() * x.error.double()
        moved = F.conv2d(x.value + direction, weight)[:, channel]
        gap = (moved - y.value[:, channel]).abs()
        assert torch.all(gap <= y.bound[:, channel])
        assert torch.allclose(gap, y.error[:, channel].double(), rtol=1e-3)


@pytest.mark.parametrize("points", CUDNN.points)
def test_winograds_matrices_are_a_convolution(points):
    g, b, a = winograd_matrices(*points)
    d, w = draw(0, 6, 6).double(), draw(1, 3, 3).double()
    y = a @ ((g @ w @ g.T) * (b @ d @ b.T)) @ a.T
    assert torch.allclose(y, F.conv2d(d[None, None], w[None, None])[0, 0])


def test_winograds_size_is_that_of_its_terms():
    """Of one tile, by the definition; larger than the direct convolution's everywhere."""
    g, b, a = (matrix.numpy() for matrix in winograd_matrices())
    x, weight = draw(0, 2, 3, 9, 6).abs(), draw(1, 5, 3, 3, 3).double()
    size = winograd_size(x, weight).numpy()
    assert size.shape == (2, 5, 9, 6)
    assert np.all(size >= 0.999 * F.conv2d(x, weight.abs().float(), padding=1).numpy())
    patch = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 5), (1, 5)))[1, :, 4:10, 0:6]
    sums = sum(np.abs(g @ weight[2, c].numpy() @ g.T) * (abs(b) @ patch[c] @ abs(b).T)
               for c in range(3))
    np.testing.assert_allclose(size[1, 2, 4:8, 0:4], abs(a) @ sums @ abs(a).T, rtol=1e-4)


@pytest.mark.skipif(library.library_path() is None, reason=library.missing_reason())
@pytest.mark.parametrize("compute, factor", [("float32", 0.0), ("bfloat16", 2.0 ** -8)])
def test_the_op_library_stays_within_the_bound(compute, factor):
    """NormConv, which uses Winograd; the worst value is within a few thousand of the bound."""
    from dataclasses import replace

    import onnx

    from bidiff_deploy.operators.definitions import functions
    from bidiff_deploy.operators.names import DOMAIN, NORM_CONV, ONNX_OPSET
    from bidiff_deploy.proof.sessions import open_session

    names = ["x", "scale", "bias", "weight", "conv_bias", "time", "skip"]
    x, w = draw(0, 1, 16, 22, 19, shift=0.5), draw(1, 16, 16, 3, 3, spread=0.1)
    values = [x, draw(2, 16), draw(3, 16), w, draw(4, 16), draw(5, 16), draw(6, 1, 16, 22, 19)]
    helper = onnx.helper
    node = helper.make_node(NORM_CONV, names, ["y"], domain=DOMAIN, groups=4, compute=compute)
    graph = helper.make_graph(
        [node], "one", [helper.make_tensor_value_info(name, 1, list(value.shape))
                        for name, value in zip(names, values)],
        [helper.make_tensor_value_info("y", 1, None)])
    model = helper.make_model(graph, functions=functions(), ir_version=10, opset_imports=[
        helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, 1)])
    session = open_session(model.SerializeToString(), {}, threads=1)
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, values)})

    x, scale, bias, w, conv_bias, time, skip = (value.double() for value in values)
    h = F.silu(F.group_norm(
        Bounded.without_error(x, replace(PACKED, factor=factor)), 4, scale, bias))
    y = F.conv2d(h, w, conv_bias, padding=1) + time[:, None, None] + skip
    ratio = ((torch.from_numpy(found).double() - y.value).abs() / y.bound).max().item()
    assert 1e-4 < ratio <= 1


def test_chains_of_means():
    assert PACKED.mean_roundings(1 << 20) == 128 + 32
    assert STOCK.mean_roundings(1 << 10) == 128 + 8
    assert gamma(1) > 2.0 ** -24
