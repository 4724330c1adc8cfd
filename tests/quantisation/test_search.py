"""The search for bounds, and the quantiser: as published, and in the form of engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bidiff_deploy.quantisation.search import dobi, fake_quantised, symmetric_bounds
from bidiff_deploy.training.networks.quantised import fake_quantise

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "dobi.npz")


@pytest.mark.parametrize("row", range(0, len(REFERENCE["names"]), 3))
def test_dobi_finds_the_published_bounds(row):
    values = REFERENCE[f"x_{REFERENCE['names'][row]}"]
    bits = int(REFERENCE["bits"][row])
    found = dobi(values, bits, one_direction=bool(REFERENCE["one_direction"][row]))
    assert found.lower == pytest.approx(REFERENCE["lower"][row], rel=1e-5)
    assert found.upper == pytest.approx(REFERENCE["upper"][row], rel=1e-5)
    assert found.error == pytest.approx(REFERENCE["error"][row], rel=1e-4)
    whole = fake_quantised(values, values.min(), values.max(), bits)
    assert np.linalg.norm(whole - values) == pytest.approx(REFERENCE["minmax_error"][row], rel=1e-4)


def test_the_quantisers_gradients_are_the_published():
    x, lower, upper = (torch.from_numpy(np.array(REFERENCE[f"fq_{name}"])).requires_grad_()
                       for name in ("x", "lower", "upper"))
    y = fake_quantise(x, lower, upper, 2 ** int(REFERENCE["fq_bits"]) - 1)
    np.testing.assert_allclose(y.detach(), REFERENCE["fq_y"], atol=1e-6)
    y.backward(torch.from_numpy(REFERENCE["fq_upstream"]))
    np.testing.assert_allclose(x.grad, REFERENCE["fq_grad_x"], atol=1e-6)
    np.testing.assert_allclose(lower.grad, REFERENCE["fq_grad_lower"][0], rtol=1e-4)
    np.testing.assert_allclose(upper.grad, REFERENCE["fq_grad_upper"][0], rtol=1e-4)


def test_bounds_of_channels_have_their_own_gradients():
    x = torch.tensor([[0.3, -2.0], [0.3, 5.0]])
    bound = torch.tensor([[1.0], [2.0]], requires_grad=True)
    y = fake_quantise(x, -bound, bound, 6)  # 3 levels: thirds of the bound
    np.testing.assert_allclose(y.detach(), [[1 / 3, -1.0], [0.0, 2.0]], atol=1e-6)
    y.sum().backward()
    # Inside: (round(v) - v) / 3, v = 0.9 and 0.45; outside -1 and +1.
    np.testing.assert_allclose(bound.grad, [[0.1 / 3 - 1], [-0.45 / 3 + 1]], atol=1e-6)


def test_symmetric_bounds_by_hand():
    """One level: 0 and +-u. Nine ones and a four: u = 1 has the error 9, u = 4 / k ones that are
    rounded up cost 9 (u - 1)^2 + (4 - u)^2, least at u = 1.3, of which 1.28 and 1.32 are tried."""
    rows = np.array([[1.0] * 9 + [4.0], [0.0] * 10, [2.0, -2.0] * 5], np.float32)
    found = symmetric_bounds(rows, 1)
    assert found[0] in (np.float32(1.28), np.float32(1.32))
    np.testing.assert_array_equal(found[1:], [1.0, 2.0])


def test_symmetric_bounds_lose_less_than_the_range():
    values = REFERENCE["x_activation_bell"].reshape(1, -1)
    bound = float(symmetric_bounds(values, 7)[0])
    assert 0 < bound < np.abs(values).max()

    def error(u):
        return np.linalg.norm(np.clip(np.rint(values / u * 7), -7, 7) * u / 7 - values)

    assert error(bound) < 0.9 * error(np.abs(values).max())
