"""DoReFa-Net's layers of several bits: the paper's formulas by hand and in float64, and planes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from torch import Tensor, tensor

from bidiff_deploy.engines import library
from bidiff_deploy.networks.bi_diffsr.bit_planes import bit_planes, move
from bidiff_deploy.networks.bi_diffsr.step_constants import plane_alpha
from bidiff_deploy.networks.bi_diffsr.weight_signs import (
    in_planes,
    latent_of_planes,
    of_one_scale,
)
from bidiff_deploy.operators.sign_bits import unpack_signs
from bidiff_deploy.training.networks.bit_planes import BitPlaneConv2d
from support.seeds import examples

GROUP = torch.zeros(1, dtype=torch.int64)
WEIGHT = [[0.3, -0.1], [-0.5, -0.7]]


def layer(weight, weight_bits: int, activation_bits: int) -> BitPlaneConv2d:
    weight = torch.as_tensor(weight, dtype=torch.float32)
    weight = weight[:, :, None, None] if weight.ndim == 2 else weight
    made = BitPlaneConv2d(weight.shape[1], len(weight), weight.shape[-1], weight_bits,
                          activation_bits)
    with torch.no_grad():
        made.weight.copy_(weight)
    return made


def both(made: BitPlaneConv2d, x: Tensor) -> list[float]:
    """The layer's output, which is the same from codes and from planes."""
    codes = made(x, GROUP).detach()
    with torch.no_grad():
        planes = made(x, GROUP)
    # Sums are rounded, and one near 0 may be the difference of large ones; a wrong bit changes one
    # by more than a hundred times this.
    np.testing.assert_allclose(planes, codes, rtol=0, atol=1e-6 * (1 + float(codes.abs().max())))
    return codes.flatten().tolist()


def pixel(*channels: float) -> Tensor:
    return tensor(channels).reshape(1, -1, 1, 1)


def test_two_bits_by_hand():
    """3 (tanh W / (2 * 0.6044) + 1/2) = (2.22, 1.25; 0.35, 0), so that W is (1, -1; -3, -3) / 3; of
    x 3 * 0.5 = 1.5 rounds to 2, of 3, and -2 to 0: 2/9 and -2/3 are added."""
    x = pixel(0.5, -2.0)
    assert both(layer(WEIGHT, 2, 2), x) == pytest.approx([0.5 + 2 / 9, -2 - 2 / 3])
    # Weights of 1 bit have the mean magnitude 0.4; activations of 1 bit are 1 and 0.
    assert both(layer(WEIGHT, 1, 2), x) == pytest.approx([0.5 + 0.4 * 2 / 3, -2 - 0.4 * 2 / 3])
    assert both(layer(WEIGHT, 2, 1), x) == pytest.approx([0.5 + 1 / 3, -3.0])


def test_the_border_counts_as_zero():
    """Of 0.2 the code is 1. Every 3x3 window has all of (3, 0; 2, 1) / 3, in sum 2; a weight of -1
    in the middle takes twice a pixel's own."""
    x = tensor([1.0, -2.0, 0.5, 0.2]).reshape(1, 1, 2, 2)
    assert both(layer(np.full((1, 1, 3, 3), 0.5), 2, 2), x) == pytest.approx([3.0, 0.0, 2.5, 2.2])
    weight = np.full((1, 1, 3, 3), 0.5)
    weight[0, 0, 1, 1] = -0.5
    assert both(layer(weight, 2, 2), x) == pytest.approx(
        [1.0, 0.0, 2.5 - 4 / 3, 2.2 - 2 / 3])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_halves_round_up(bits):
    """1/2 lies between two codes; so does a weight of 0, and a layer of them."""
    half = 2 ** (bits - 1) / (2 ** bits - 1)
    assert both(layer([[1.0]], 2, bits), pixel(0.5)) == pytest.approx([0.5 + half])
    assert both(layer([[0.0, 1.0]], bits, 1), pixel(1.0, 0.0)) == pytest.approx(
        [0.5 + 2 * half - 1])
    assert both(layer([[0.0]], bits, 1), pixel(1.0)) == pytest.approx([2 * half])


def test_gradients_by_hand():
    """g = (2, 3) and codes (2, 0) of 3. Weights of 2 bits: 2 of u, u = t / (2 M) + 1/2, t = tanh W,
    M the magnitude of the last; 1 - t^2 of tanh. Those of 1 bit have g times the input's value."""
    x = pixel(0.5, 1.5).requires_grad_()
    made = layer(WEIGHT, 2, 2)
    (made(x, GROUP) * pixel(2.0, 3.0)).sum().backward()
    # x passes where it is from 0 to 1: (1 / 3) 2 - 3, and the shortcut.
    assert x.grad.flatten().tolist() == pytest.approx([2 / 3 - 3 + 2, 3.0])
    t = np.tanh(np.array(WEIGHT, np.float32).astype(np.float64))
    most = 0.5 * -(2 / t[1, 1])  # 1 / M
    of_u = 2 * np.outer([2.0, 3.0], [2 / 3, 1.0])
    of_t = of_u * most / 2
    of_t[1, 1] -= -(of_u * t).sum() * most ** 2 / 2  # d|t| is -1
    np.testing.assert_allclose(made.weight.grad[:, :, 0, 0], of_t * (1 - t * t), rtol=1e-5)

    made = layer(WEIGHT, 1, 2)
    (made(x, GROUP) * pixel(2.0, 3.0)).sum().backward()
    np.testing.assert_allclose(made.weight.grad[:, :, 0, 0], np.outer([2.0, 3.0], [2 / 3, 1.0]),
                               rtol=1e-6)


# -- against the paper in float64 -----------------------------------------------------------------
def quantised(r: np.ndarray, bits: int) -> np.ndarray:
    """quantize_k of the paper: its whole numbers, of 2^bits - 1."""
    return np.round((2 ** bits - 1) * r).astype(np.int64)


def convolved(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The zero-padded convolution of whole numbers."""
    k = w.shape[-1]
    padded = np.pad(a, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (2, 3))
    return np.einsum("nchwyx,ocyx->nohw", windows, w)


def of_the_paper(weight: np.ndarray, x: np.ndarray, weight_bits: int,
                 activation_bits: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Whole numbers of weights and activations, and the factor of their convolution."""
    wide, most = weight.astype(np.float64), 2 ** activation_bits - 1
    codes = quantised(np.clip(x.astype(np.float64), 0, 1), activation_bits)
    if weight_bits == 1:
        return np.where(wide >= 0, 1, -1), codes, np.abs(wide).mean() / most
    t, top = np.tanh(wide), 2 ** weight_bits - 1
    whole = 2 * quantised(t / (2 * np.abs(t).max()) + 0.5, weight_bits) - top
    return whole, codes, 1 / (top * most)


def case(rng: np.random.Generator, activation_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and an input without values so near to a half that rounding decides their code."""
    k, (inputs, outputs, height, width) = int(rng.choice([1, 3])), rng.integers(1, 10, 4)
    inputs = int(rng.choice([inputs, 33, 64]))
    weight = rng.standard_normal((outputs, inputs, k, k)).astype(np.float32)
    x = rng.uniform(-0.3, 1.3, (int(rng.integers(1, 3)), inputs, height, width))
    x = x.astype(np.float32)
    x[np.abs((2 ** activation_bits - 1) * x.astype(np.float64) % 1 - 0.5) < 1e-5] = 0
    return weight, x


bits = pytest.mark.parametrize("weight_bits, activation_bits",
                               list(itertools.product(range(1, 5), range(1, 5))))


@bits
@examples(2)
@given(seed=strategies.integers(0, 2 ** 32 - 1))
def test_a_layer_is_the_papers(weight_bits, activation_bits, seed):
    """Within float32's rounding of the formula in float64."""
    weight, x = case(np.random.default_rng(seed), activation_bits)
    whole, codes, factor = of_the_paper(weight, x, weight_bits, activation_bits)
    right = convolved(codes, whole) * factor
    made = layer(weight, weight_bits, activation_bits)
    shortcut = made.residual(torch.from_numpy(x).double()).numpy()
    found = np.reshape(both(made, torch.from_numpy(x)), right.shape)
    np.testing.assert_allclose(found, right + shortcut, rtol=0,
                               atol=1e-6 * (1 + np.abs(right).max() + np.abs(shortcut).max()))


@bits
@examples(2)
@given(seed=strategies.integers(0, 2 ** 32 - 1))
def test_sums_of_planes_are_exact(weight_bits, activation_bits, seed):
    """The kernel's integers of all pairs of planes, times powers of two, and the sum of weights
    inside the image, are twice the convolution of the whole numbers."""
    if library.library_path() is None:
        pytest.skip(library.missing_reason())
    weight, x = case(np.random.default_rng(seed), activation_bits)
    whole, codes, _ = of_the_paper(weight, x, weight_bits, activation_bits)
    packed = (of_one_scale(weight, "w") if weight_bits == 1
              else in_planes(weight, "w", weight_bits))
    residue, sums, last = x, 0, activation_bits - 1
    for plane in bit_planes(weight_bits, activation_bits):
        if plane.activation != last:
            by, last = move(plane.activation + 1, activation_bits), plane.activation
            above = residue >= np.float32(by.at)
            residue = residue + np.where(above, np.float32(by.above), np.float32(by.below))
        at = 0.5 if plane.activation == activation_bits - 1 else 0
        found = library.binary_conv_sums(residue, packed.plane(plane.weight).words,
                                         np.full(x.shape[1], -at, np.float32))
        sums = sums + found.astype(np.int64) * 2 ** (plane.weight + plane.activation)
    border = convolved(np.ones((1, 1, *x.shape[2:]), np.int64), whole.sum(1, keepdims=True))
    np.testing.assert_array_equal(sums + (2 ** activation_bits - 1) * border,
                                  2 * convolved(codes, whole))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_packed_weights_quantise_to_themselves(bits):
    rng = np.random.default_rng(bits)
    packed = in_planes(rng.standard_normal((6, 7, 3, 3)).astype(np.float32), "w", bits)
    again = in_planes(latent_of_planes(packed), "w", bits)
    np.testing.assert_array_equal(again.words, packed.words)
    np.testing.assert_array_equal(again.alpha, packed.alpha)
    assert again.planes == packed.planes == bits
    made = layer(latent_of_planes(packed), bits, 2)
    for plane in made.planes:
        part = packed.plane(plane.plane.weight)
        np.testing.assert_array_equal(plane.signs().detach(),
                                      unpack_signs(part.words, part.in_channels))
        np.testing.assert_array_equal(plane.constants(0)["alpha"].detach(),
                                      plane_alpha(packed, plane.plane))


def test_the_parameters_are_the_layers_alone():
    made = layer(WEIGHT, 2, 2)
    assert [name for name, _ in made.named_parameters()] == ["weight"] == list(made.state_dict())
