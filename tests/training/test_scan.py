"""The selective scan in torch: against float64 step by step, and against MambaIR's published block.

The reference outputs are of MambaIR (Guo et al., ECCV 2024), the nearest network with code: its
SS2D is four of our branches, one a direction.
"""

from __future__ import annotations

import json
import math
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference.synth_weights import synth_tensor

from bidiff_deploy.networks.hi_mamba.architecture import DIRECTIONS
from bidiff_deploy.training.networks.scan import (
    initial_steps,
    linear_scan,
    ordered,
    scanned,
    selective_scan,
    unordered,
)
from support.reference_cases import REFERENCE


def reference():
    return {key: torch.from_numpy(value) for key, value in np.load(
        REFERENCE / "forward_mambair_vssblock.npz").items()}


@pytest.mark.parametrize("length", [1, 2, 3, 9, 10, 63])
def test_pieces_equal_one_step_after_the_other(length):
    generator = torch.Generator().manual_seed(length)
    decay, given = torch.rand(2, length, 2, 3, generator=generator, dtype=torch.float64)
    h, expected = torch.zeros(2, 3, dtype=torch.float64), []
    for d, g in zip(decay, given):
        h = d * h + g
        expected.append(h)
    torch.testing.assert_close(scanned(decay, given), torch.stack(expected))
    assert torch.autograd.gradcheck(linear_scan, (decay.requires_grad_(), given.requires_grad_()))


@pytest.mark.parametrize("columns, reverse", DIRECTIONS)
def test_an_order_and_its_inverse(columns, reverse):
    pixels = torch.arange(6.0).reshape(1, 1, 2, 3)
    steps = ordered(pixels, columns, reverse)
    expected = [0, 3, 1, 4, 2, 5] if columns else [0, 1, 2, 3, 4, 5]
    assert steps[:, 0, 0].tolist() == (expected[::-1] if reverse else expected)
    assert torch.equal(unordered(steps, columns, reverse, 2, 3), pixels)


def test_the_scan_of_the_reference():
    """Four directions with 64 channels each, as rows of one pixel."""
    case, found = reference(), []
    delta = case["scan_delta"] + case["scan_delta_bias"][:, None]
    for k in range(len(DIRECTIONS)):
        of = slice(64 * k, 64 * (k + 1))
        x, step, b, c = (value[:, :, None].double() for value in (
            case["scan_u"][:, of], delta[:, of], case["scan_B"][:, k], case["scan_C"][:, k]))
        found.append(selective_scan(x, step, b, c, case["scan_A"][of].double(),
                                    case["scan_D"][of].double(), 0, 0)[:, :, 0])
    assert (torch.cat(found, 1) - case["scan_y_float64"]).abs().max() < 1e-5


def weights():
    """The published block's, by the rule of the reference, float64."""
    layout = json.loads((REFERENCE / "layout_mambair_vssblock.json").read_text())
    found = {}
    for key, shape in layout["parameters"].items():
        noise = np.random.default_rng([0, zlib.crc32(key.encode())]).standard_normal(
            shape, dtype=np.float32)
        last = key.rpartition(".")[2]
        if last == "A_logs":
            value = np.log(np.arange(1, shape[1] + 1)) + 0.1 * noise
        elif last == "dt_projs_bias":
            value = -3 + 0.5 * noise
        elif last in ("x_proj_weight", "dt_projs_weight"):
            value = noise / math.sqrt(shape[-1])
        elif last in ("Ds", "skip_scale", "skip_scale2"):
            value = 1 + 0.1 * noise
        else:
            value = synth_tensor(key, tuple(shape), 0)
        found[key] = torch.from_numpy(np.asarray(value, np.float32)).double()
    return found


def ss2d(x, w):
    """(N, H, W, C) -> the same shape."""
    def of(name):
        return w[f"self_attention.{name}"]

    x, z = F.linear(x, of("in_proj.weight")).chunk(2, -1)
    x = F.silu(F.conv2d(x.permute(0, 3, 1, 2), of("conv2d.weight"), of("conv2d.bias"), padding=1,
                        groups=64))
    y = 0
    for k, (columns, reverse) in enumerate(DIRECTIONS):
        each = slice(64 * k, 64 * (k + 1))
        low, b, c = F.conv2d(x, of("x_proj_weight")[k][:, :, None, None]).split((2, 8, 8), 1)
        delta = F.conv2d(low, of("dt_projs_weight")[k][:, :, None, None], of("dt_projs_bias")[k])
        y = y + selective_scan(x, delta, b, c, -of("A_logs")[each].exp(), of("Ds")[each], columns,
                               reverse)
    y = F.layer_norm(y.permute(0, 2, 3, 1), (64,), of("out_norm.weight"), of("out_norm.bias"))
    return F.linear(y * F.silu(z), of("out_proj.weight"))


def test_mambairs_block_of_our_parts():
    case, w = reference(), weights()
    found = ss2d(case["ss2d_x"].double(), w)
    assert (found - case["ss2d_y"]).abs().max() < 1e-5
    height, width = case["x_size"].tolist()
    x = case["x"].double().reshape(1, height, width, -1)
    x = x * w["skip_scale"] + ss2d(F.layer_norm(x, (32,), w["ln_1.weight"], w["ln_1.bias"]), w)
    y = F.layer_norm(x, (32,), w["ln_2.weight"], w["ln_2.bias"]).permute(0, 3, 1, 2)

    def convolution(y, name, **options):
        return F.conv2d(y, w[f"conv_blk.cab.{name}.weight"], w[f"conv_blk.cab.{name}.bias"],
                        **options)

    y = convolution(F.gelu(convolution(y, "0", padding=1)), "2", padding=1)
    gate = F.relu(convolution(y.mean((2, 3), keepdim=True), "3.attention.1"))
    y = y * torch.sigmoid(convolution(gate, "3.attention.3"))
    y = x * w["skip_scale2"] + y.permute(0, 2, 3, 1)
    assert (y.reshape(1, -1, 32) - case["y"]).abs().max() < 1e-5


def test_initial_steps_are_between_their_ends():
    steps = F.softplus(initial_steps(1000))
    assert steps.min() > 0.99e-3 and steps.max() < 0.101 and steps.std() > 0.01
