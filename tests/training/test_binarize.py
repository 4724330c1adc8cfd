"""The two sign functions, their gradients, and the BIConv around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bidiff_deploy.operators.sign_bits import BinaryWeight
from bidiff_deploy.training.networks.binarize import (
    BinaryConv2d,
    sign_activation,
    sign_weight,
    weight_scale,
)

EDGES = [-3.0, -1.0, -0.999, -0.5, -1e-8, -0.0, 0.0, 1e-8, 0.5, 0.999, 1.0, 3.0]


def test_sign_of_zero_is_plus_one():
    x = torch.tensor(EDGES)
    assert sign_activation(x).tolist() == [-1.0] * 5 + [1.0] * 7


@pytest.mark.parametrize("value, slope", [
    (-3.0, 0.0), (-1.0, 0.0), (-0.75, 0.5), (-0.25, 1.5), (-0.0, 2.0), (0.0, 2.0), (0.25, 1.5),
    (0.75, 0.5), (1.0, 0.0), (3.0, 0.0)])
def test_gradient_of_the_activations_sign(value, slope):
    x = torch.tensor([value], requires_grad=True)
    (5 * sign_activation(x)).sum().backward()
    assert x.grad.item() == pytest.approx(5 * slope, abs=1e-6)


def test_gradient_of_the_activations_sign_on_a_grid():
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64, requires_grad=True)
    sign_activation(x).sum().backward()
    given = x.detach()
    closed = torch.where((given >= -1) & (given < 0), 2 + 2 * given,
                         torch.where((given >= 0) & (given < 1), 2 - 2 * given, 0.0))
    assert torch.allclose(x.grad, closed, rtol=0, atol=1e-12)


def test_weights_are_the_packed_form():
    weight = torch.randn(6, 33, 3, 3, generator=torch.Generator().manual_seed(1))
    weight[0, 0, 0] = torch.tensor([0.0, -0.0, 1e-30])
    packed = BinaryWeight.from_float(weight.numpy(), "weight")
    assert np.array_equal(sign_weight(weight).numpy(), packed.to_float())
    assert (sign_weight(weight)[0, 0, 0] > 0).all()


def test_packed_weights_read_back_binarise_to_themselves():
    # 288 equal values: a float32 sum would round, and the mean would not be the value.
    weight = torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(2)) * 0.05
    once = sign_weight(weight)
    assert torch.equal(sign_weight(once), once)


def test_weights_gradient_is_clamped_and_alpha_has_none():
    weight = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 0.1]).reshape(2, 4, 1, 1)
    weight.requires_grad_()
    upstream = torch.arange(1.0, 9.0).reshape(2, 4, 1, 1)
    (sign_weight(weight) * upstream).sum().backward()
    passes = torch.tensor([0.0, 1, 1, 1, 1, 1, 0, 1]).reshape(2, 4, 1, 1)
    assert torch.equal(weight.grad, upstream * passes)  # no factor alpha, no term through it
    assert not weight_scale(weight).requires_grad
    assert weight_scale(weight).flatten().tolist() == pytest.approx([0.75, 0.775])


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_binary_convolution_is_its_formula(kernel_size):
    """Against a direct sum in float64, borders included: taps beyond them contribute 0."""
    generator = torch.Generator().manual_seed(kernel_size)
    conv = BinaryConv2d(5, 5, kernel_size, groups=3)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 5, 4, 6, generator=generator)
    group = 2
    found = conv(x, torch.tensor([group])).detach().numpy()

    weight = conv.weight.detach().double().numpy()
    alpha = np.abs(weight).mean((1, 2, 3))
    threshold, shift_in, slope, shift_out = (
        parameter.detach()[group].numpy()[None, :, None, None]
        for parameter in (conv.threshold, conv.shift_in, conv.slope, conv.shift_out))
    bits = np.where(x.numpy() + threshold >= 0, 1, -1)
    pad = kernel_size // 2
    padded = np.pad(bits, ((0, 0), (0, 0), (pad, pad), (pad, pad)))  # with 0, not with a sign
    sums = np.zeros(x.shape)
    for dy in range(kernel_size):
        for dx in range(kernel_size):
            window = padded[:, :, dy:dy + 4, dx:dx + 6]
            sums += np.einsum("oc,nchw->nohw", np.where(weight[..., dy, dx] >= 0, 1, -1), window)
    y = alpha[None, :, None, None] * sums + shift_in
    expected = np.where(y >= 0, y, slope * y) + shift_out + x.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_only_the_used_group_gets_gradients():
    conv = BinaryConv2d(4, 4, 3, groups=3)
    conv(torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0)),
         torch.tensor([1])).square().sum().backward()
    for parameter in (conv.threshold, conv.shift_in, conv.slope, conv.shift_out):
        used = parameter.grad.abs().sum(1) > 0
        assert used.tolist() == [False, True, False]
