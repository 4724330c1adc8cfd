"""Binary layers of other methods: their papers' formulas, worked out by hand, and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn, tensor

from bidiff_deploy.networks.bi_diffsr.binarizers import BINARIZERS
from bidiff_deploy.networks.bi_diffsr.weight_signs import balanced, balanced_latent
from bidiff_deploy.training.networks.binarize import BinaryConv2d
from bidiff_deploy.training.networks.binary_layers import (
    BbcuConv2d,
    DabConv2d,
    ReActNetConv2d,
)
from bidiff_deploy.training.networks.fused import bypass
from bidiff_deploy.training.networks.plain_layers import (
    BnnConv2d,
    DoReFaConv2d,
    IrNetConv2d,
    XnorConv2d,
    set_progress,
)

GROUP = torch.zeros(1, dtype=torch.int64)
LAYERS = {"bnn": BnnConv2d, "dorefa": DoReFaConv2d, "irnet": IrNetConv2d,
          "reactnet": ReActNetConv2d, "xnor": XnorConv2d, "dab": DabConv2d,
          "bbcu": lambda inputs, outputs, k: BbcuConv2d(inputs, outputs, k, 2.5)}


def filled(layer, **values):
    """The layer with these values; all four RPReLU vectors neutral unless given."""
    neutral = {"threshold": 0.0, "shift_in": 0.0, "slope": 1.0, "shift_out": 0.0}
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            value = values.get(name, neutral.get(name, 0.0))
            parameter.copy_(tensor(value).expand(parameter.shape) if isinstance(value, float)
                            else tensor(value).reshape(parameter.shape))
    return layer


def pixel(*channels: float) -> Tensor:
    return tensor(channels).reshape(1, -1, 1, 1)


def values(y: Tensor) -> list[float]:
    return y.detach().flatten().tolist()


WEIGHT = [[0.3, -0.1], [-0.5, -0.7]]  # 1x1 filters: alpha 0.2 and 0.6, signs (+, -) and (-, -)


def test_reactnet_by_hand():
    """RSign with the paper's alpha = (0.25, -1); the sums are 1*1 + (-1)(-1) = 2 and -1 + 1 = 0.
    With the shortcut 0.4 + 0.5 and 0 - 2; RPReLU's gamma = (1, -1), zeta = (0.1, 0.2), beta =
    (0.5, 0.25): 0.5 (0.9 - 1) + 0.1 = 0.05 and 0.25 (-2 + 1) + 0.2 = -0.05."""
    layer = filled(ReActNetConv2d(2, 2, 1), weight=WEIGHT, threshold=[-0.25, 1.0],
                   shift_in=[-1.0, 1.0], slope=[0.5, 0.25], shift_out=[0.1, 0.2])
    assert values(layer(pixel(0.5, -2.0), GROUP)) == pytest.approx([0.05, -0.05])
    # Above gamma it is the identity, shifted: 0.4 + 3 - 1 + 0.1.
    assert values(layer(pixel(3.0, -2.0), GROUP))[0] == pytest.approx(2.5)


def test_reactnets_gradient_by_hand():
    """x - alpha = 0.25 and -0.8: slopes 2 - 0.5 = 1.5 and 2 - 1.6 = 0.4. The signs' gradients are
    0.2 g0 - 0.6 g1 and -0.2 g0 - 0.6 g1, g after RPReLU's slopes (0.5: 0.75 - 1 < 0; 1: above)."""
    layer = filled(ReActNetConv2d(2, 2, 1), weight=WEIGHT, threshold=[-0.25, 1.0],
                   shift_in=[-1.0, 3.0], slope=[0.5, 0.25], shift_out=[0.0, 0.0])
    x = pixel(0.5, -1.8).requires_grad_()
    (layer(x, GROUP) * pixel(2.0, 3.0)).sum().backward()
    g0, g1 = 2 * 0.5, 3.0
    through = [1.5 * (0.2 * g0 - 0.6 * g1), 0.4 * (-0.2 * g0 - 0.6 * g1)]
    assert values(x.grad) == pytest.approx([through[0] + g0, through[1] + g1])
    assert values(layer.threshold.grad) == pytest.approx(through)
    assert values(layer.shift_in.grad) == pytest.approx([g0, g1])
    # 0.4 + 0.5 - 1 = -0.1 reaches the slope of channel 0, nothing reaches that of channel 1.
    assert values(layer.slope.grad) == pytest.approx([2 * -0.1, 0.0])
    assert values(layer.shift_out.grad) == pytest.approx([2.0, 3.0])
    # Bits (1, -1), all |W| <= 1: the gradient as it is, without alpha.
    assert values(layer.weight.grad) == pytest.approx([g0, -g0, g1, -g1])


def test_bnn_by_hand():
    """No scale: the sums 2 and 0, and the shortcut. Gradients pass where |x| and |W| are at most 1:
    x[1] has the shortcut's alone, the weight -1.5 none."""
    layer = filled(BnnConv2d(2, 2, 1), weight=WEIGHT)
    assert values(layer(pixel(0.5, -2.0), GROUP)) == pytest.approx([2.5, -2.0])
    layer = filled(BnnConv2d(2, 2, 1), weight=[[0.3, -1.5], [-0.5, -0.7]])
    x = pixel(0.5, -2.0).requires_grad_()
    (layer(x, GROUP) * pixel(2.0, 3.0)).sum().backward()
    assert values(x.grad) == pytest.approx([2 - 3 + 2, 3.0])
    assert values(layer.weight.grad) == pytest.approx([2.0, 0.0, 3.0, -3.0])


def test_dorefa_by_hand():
    """a = (0.3 + 0.1 + 0.5 + 0.7) / 4 = 0.4 for both filters. Bits of 0.5 and -2 are (1, 0), so
    that 0.4 (1) and 0.4 (-1) are added."""
    layer = filled(DoReFaConv2d(2, 2, 1), weight=WEIGHT)
    assert values(layer(pixel(0.5, -2.0), GROUP)) == pytest.approx([0.9, -2.4])
    x = pixel(0.5, -2.0).requires_grad_()
    (layer(x, GROUP) * pixel(2.0, 3.0)).sum().backward()
    assert values(x.grad) == pytest.approx([0.4 * 2 - 0.4 * 3 + 2, 3.0])
    # Bits times g, whatever a and the weight's size.
    assert values(layer.weight.grad) == pytest.approx([2.0, 0.0, 3.0, 0.0])


def test_dorefas_border_counts_as_bits_of_zero():
    """Bits (1, 0; 1, 0), every 3x3 window holds all of them: 0.5 * 2 is added everywhere. With a
    negative weight in the middle, what is added depends on the pixel's own bit."""
    layer = filled(DoReFaConv2d(1, 1, 3), weight=0.5)
    x = tensor([1.0, -2.0, 0.5, 0.2]).reshape(1, 1, 2, 2)
    assert values(layer(x, GROUP)) == pytest.approx([2.0, -1.0, 1.5, 1.2])
    with torch.no_grad():
        layer.weight[0, 0, 1, 1] = -0.5
    assert values(layer(x, GROUP)) == pytest.approx([1.0, -1.0, 0.5, 1.2])


IRNET = [[0.5, 0.1, 0.1, 0.1, 0.5, 0.1, 0.1, 0.1], [8.0, 0, 0, 0, 0, 0, 0, 0]]


def test_irnet_by_hand():
    """Filter 0: W - 0.2 = (0.3, -0.1, ...), all weights are positive, the signs are not; the ratio
    is 0.15 / sqrt(0.24 / 7) = 0.81, nearest to 2^0. Filter 1: W - 1 = (7, -1, ...), ratio 1.75 /
    sqrt(56 / 7) = 0.62, nearest to 2^-1. Sums 4 and 2; the bypass of 8 -> 2 channels is the mean of
    the first 4 and that of the last 4."""
    layer = filled(IrNetConv2d(8, 2, 1), weight=IRNET)
    x = pixel(1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0)
    assert values(layer(x, GROUP)) == pytest.approx([4 - 0.5, 0.5 * 2 + 0.5])
    assert values(layer.constants(0)["alpha"]) == [1.0, 0.5]


@pytest.mark.parametrize("progress, t, k", [(0.0, 0.1, 10.0), (0.5, 1.0, 1.0), (1.0, 10.0, 1.0)])
def test_irnets_gradients_are_of_k_tanh(progress, t, k):
    """Those of the same layer with k tanh(t v) in place of both signs' gradients; std W and mean W
    are differentiated, the power of two is not."""
    layer = filled(IrNetConv2d(8, 2, 1), weight=IRNET)
    with torch.no_grad():
        layer.weight += 0.01 * torch.arange(16.0).reshape(2, 8, 1, 1)
    set_progress(nn.ModuleList([layer]), progress)
    x = torch.linspace(-1.5, 2.2, 8).reshape(1, 8, 1, 1).requires_grad_()
    (layer(x, GROUP) * pixel(2.0, 3.0)).sum().backward()

    def soft(v, bits):
        smooth = k * torch.tanh(t * v)
        return smooth + (bits - smooth).detach()

    w, y = layer.weight.detach().double().requires_grad_(), x.detach().double().requires_grad_()
    rows = w.flatten(1)
    standard = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
    weight = soft(standard, standard.sign()) * tensor([[1.0], [0.5]])
    out = weight @ soft(y.flatten(), y.flatten().sign())
    out = out + torch.stack([y.flatten()[:4].mean(), y.flatten()[4:].mean()])
    (out * tensor([2.0, 3.0])).sum().backward()
    np.testing.assert_allclose(x.grad, y.grad, rtol=1e-5)
    np.testing.assert_allclose(layer.weight.grad, w.grad, rtol=1e-4, atol=1e-6)


def test_packed_irnet_binarises_to_itself():
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((64, 7, 3, 3)).astype(np.float32) ** 3 + np.float32(0.2)
    weight[:4, 0, 0, 0] = 40  # smaller powers of two
    weight[4] = 0.5
    packed = balanced(weight, "w")
    assert {0.25, 0.5, 1.0} <= set(packed.alpha.tolist())
    again = balanced(balanced_latent(packed), "w")
    np.testing.assert_array_equal(again.words, packed.words)
    np.testing.assert_array_equal(again.alpha, packed.alpha)


@pytest.mark.parametrize("given, expected", [
    ((1.0, 2.0, 6.0), (1, 2, 6, 1, 2, 6, 1, 4)),  # twice, then the first and the mean of the others
    ((1.0, 3.0, 5.0, 9.0, 2.0, 4.0), (3, 6, 3)),  # two groups of 2 channels, and the last two
    ((1.0, 2.0, 6.0), (3,)), ((1.0, 5.0), (1, 5, 1, 5)), ((4.0, 7.0), (4, 7))])
def test_bidenses_bypass_by_hand(given, expected):
    assert values(bypass(pixel(*given), len(expected))) == pytest.approx(expected)


def test_xnor_by_hand():
    """1x1: K = (0.5 + 2) / 2 = 1.25; 0.2 * 1.25 * 2 + 0.5 = 1 and 0.6 * 1.25 * 0 - 2 = -2."""
    layer = filled(XnorConv2d(2, 2, 1), weight=WEIGHT)
    assert values(layer(pixel(0.5, -2.0), GROUP)) == pytest.approx([1.0, -2.0])


def test_xnors_k_is_a_box_with_zeros_around():
    """|x| = (1, 2; 3, 4): every 3x3 window holds all of it, K = 10 / 9. All weights 0.5 and signs
    (+, -; +, +): each sum is 3 - 1 = 2, so 0.5 * 10 / 9 * 2 = 10 / 9 is added to x."""
    layer = filled(XnorConv2d(1, 1, 3), weight=0.5)
    x = tensor([1.0, -2.0, 3.0, 4.0]).reshape(1, 1, 2, 2)
    assert values(layer(x, GROUP)) == pytest.approx([v + 10 / 9 for v in (1.0, -2.0, 3.0, 4.0)])


def test_xnors_gradients_by_hand():
    """Of a weight g (1 / n + alpha [|W| <= 1]), n = 2; of the sign 1 where |x| <= 1."""
    layer = filled(XnorConv2d(2, 2, 1), weight=[[0.3, -1.5], [-0.5, -0.7]])  # alpha 0.9, 0.6
    x = pixel(0.5, -2.0).requires_grad_()
    g0, g1, k = 2.0, 3.0, 1.25
    (layer(x, GROUP) * pixel(g0, g1)).sum().backward()
    wanted = [g0 * k * (0.5 + 0.9), -g0 * k * 0.5, g1 * k * (0.5 + 0.6), -g1 * k * (0.5 + 0.6)]
    assert values(layer.weight.grad) == pytest.approx(wanted)
    # Shortcut; the sign of 0.5 alone; K's own: d|x| / 2 times g * alpha * sum = 2 * 0.9 * 2.
    of_k = 2 * 0.9 * 2 / 2
    assert values(x.grad) == pytest.approx([g0 + k * (0.9 * g0 - 0.6 * g1) + of_k, g1 - of_k])


def test_bbcu_by_hand():
    """k = 4: bits of 4 * 0.5 - 1 and 4 * -2 + 9 are (+, +); the sums 0 and -2. RPReLU of -0.8 and
    -3.2 after shifts is 0.5 * -0.8 + 0.4 = 0 and 0.25 * -3.2 + 1.6 = 0.8; a quarter is added."""
    layer = filled(BbcuConv2d(2, 2, 1, 4.0), weight=WEIGHT, threshold=[-1.0, 9.0],
                   shift_in=[-0.8, -2.0], slope=[0.5, 0.25], shift_out=[0.4, 1.6])
    assert values(layer(pixel(0.5, -2.0), GROUP)) == pytest.approx([0.5, -1.8])


def test_bbcus_gradients_by_hand():
    """k = 4, x = (0.125, -0.2): k x + b = (0.5, -0.8), slopes 1 and 0.4 in units of k x. The
    shortcut's k and the output's 1 / k cancel; weights keep 1 / k."""
    layer = filled(BbcuConv2d(2, 2, 1, 4.0), weight=WEIGHT)
    x = pixel(0.125, -0.2).requires_grad_()
    g0, g1 = 2.0, 3.0
    (layer(x, GROUP) * pixel(g0, g1)).sum().backward()
    through = [1.0 * (0.2 * g0 - 0.6 * g1), 0.4 * (-0.2 * g0 - 0.6 * g1)]
    assert values(x.grad) == pytest.approx([g0 + through[0], g1 + through[1]])
    assert values(layer.threshold.grad) == pytest.approx([t / 4 for t in through])
    assert values(layer.weight.grad) == pytest.approx([g0 / 4, -g0 / 4, g1 / 4, -g1 / 4])


def test_bbcu_without_alignment_is_the_published_layer_of_one_group():
    generator = torch.Generator().manual_seed(4)
    ours, published = BbcuConv2d(6, 6, 3, 1.0), BinaryConv2d(6, 6, 3, groups=1)
    with torch.no_grad():
        for name, parameter in published.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            getattr(ours, name).copy_(parameter.reshape(getattr(ours, name).shape))
    x = torch.randn(2, 6, 5, 7, generator=generator)
    assert torch.equal(ours(x, GROUP), published(x, GROUP))


def test_dab_by_hand():
    """Two pixels of two channels, (1, 3) and (-1, -1): means 2 and -1, t = 0.5 * 2 + 0.25 = 1.25
    and -1 - 0.5 = -1.5. x - t = (-0.25, 1.75) and (0.5, 0.5), magnitude 0.75, s = exp(-0.25 a).
    Bits (-, +) and (+, +): sums (-2, 0) of filter 0 and (0, -2) of filter 1."""
    layer = filled(DabConv2d(2, 2, 1), weight=WEIGHT, center=[0.5, 1.0], threshold=[0.25, -0.5],
                   sharpness=[0.8])
    x = tensor([1.0, 3.0, -1.0, -1.0]).reshape(1, 2, 1, 2)
    s = math.exp(0.8 * (0.75 - 1))
    assert values(layer(x, GROUP)) == pytest.approx(
        [1 - 2 * 0.2 * s, 3.0, -1.0, -1 - 2 * 0.6 * s])


def test_dabs_gradients_by_hand():
    """As above. With the sums' outputs z = (-0.4, 0; 0, -1.2) and g = (1, 2; 3, 4): ds is
    sum g z = -5.2, so that of a is -5.2 (0.75 - 1) s. The mean is detached."""
    layer = filled(DabConv2d(2, 2, 1), weight=WEIGHT, center=[0.5, 1.0], threshold=[0.25, -0.5],
                   sharpness=[0.8])
    x = tensor([1.0, 3.0, -1.0, -1.0]).reshape(1, 2, 1, 2).requires_grad_()
    g = tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 1, 2)
    (layer(x, GROUP) * g).sum().backward()
    s = math.exp(-0.2)
    assert layer.sharpness.grad.item() == pytest.approx(-5.2 * -0.25 * s)
    # Through s: -5.2 a s / 4 by the sign of each x - t; through signs, 0 beyond 1: slopes
    # (1.5, 0) and (1, 1) on s (0.2 g0 - 0.6 g1) and s (-0.2 g0 - 0.6 g1) of each pixel.
    scale = -5.2 * 0.8 * s / 4
    shifted = [1.5 * s * (0.2 * 1 - 0.6 * 3) - scale, scale,
               s * (-0.2 * 1 - 0.6 * 3) + scale, s * (-0.2 * 2 - 0.6 * 4) + scale]
    assert values(x.grad) == pytest.approx([v + w for v, w in zip(shifted, (1, 2, 3, 4))])
    t = [-(shifted[0] + shifted[1]), -(shifted[2] + shifted[3])]
    assert values(layer.threshold.grad) == pytest.approx(t)
    assert values(layer.center.grad) == pytest.approx([2 * t[0], -1 * t[1]])


@pytest.mark.parametrize("outputs", [5, 2, 13])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_the_node_tells_what_the_layer_computes(name, kernel_size, outputs):
    """alpha, threshold and RPReLU of ``constants``, on what ``node_input`` gives, in float64:
    exactly ``node``, and all of the layer where it is ``fused``."""
    generator = torch.Generator().manual_seed(kernel_size)
    layer = LAYERS[name](5, outputs, kernel_size)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 5, 4, 6, generator=generator)
    read = layer.node_input(x, GROUP)
    zeros = torch.zeros(outputs)
    held = {"threshold": torch.zeros(5), "shift_in": zeros, "slope": torch.ones(outputs),
            "shift_out": zeros, **layer.constants(0)}
    held = {part: value.detach().double().view(1, -1, 1, 1) for part, value in held.items()}
    bits = torch.where(read.double() + held["threshold"] >= 0, 1.0, -1.0).double()
    y = held["alpha"] * torch.nn.functional.conv2d(bits, layer.signs().double(),
                                                   padding=kernel_size // 2)
    y = y + held["shift_in"]
    y = torch.where(y < 0, held["slope"] * y, y) + held["shift_out"]
    if layer.shortcut:
        y = y + bypass(read, outputs)
    found = layer.node(read, GROUP)
    np.testing.assert_allclose(found.detach(), y.detach(), rtol=0, atol=1e-5)
    assert layer.fused == BINARIZERS[name].fused
    if layer.fused:
        assert torch.equal(layer(x, GROUP), found)


@pytest.mark.parametrize("name", LAYERS)
def test_zero_is_plus_one(name):
    layer = filled(LAYERS[name](2, 2, 1), weight=[[0.0, -0.0], [-1.0, 1.0]])
    y = layer(pixel(0.0, -0.0), GROUP)
    # All bits are +1: alpha 0 of the first filter, unless it has none; sum 0 of the second.
    assert values(y) == [2.0 if name in ("bnn", "irnet") else 0.0, 0.0]
    if name != "dorefa":  # whose bits are 1 from 1/2 on
        assert torch.equal(layer.node(pixel(0.5, -0.0), GROUP)[0, 1], tensor([[0.0]]))


@pytest.mark.parametrize("name", LAYERS)
def test_low_precision_is_for_sums_of_signs_alone(name):
    """They are exact in bfloat16 up to 256; the gradient has its 8 bits."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    layer = LAYERS[name](6, 6, 3)
    x = torch.randn(2, 6, 5, 7, generator=generator)
    found = []
    for enabled in (False, True):
        given = x.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = layer(given, GROUP)
        y.square().sum().backward()
        found.append((y, given.grad, layer.weight.grad))
    (y, by_x, by_weight), (low, low_by_x, low_by_weight) = found
    assert low.dtype == torch.float32 and torch.equal(y, low)
    for exact, rounded in ((by_x, low_by_x), (by_weight, low_by_weight)):
        assert (exact - rounded).norm() < 0.02 * exact.norm()
