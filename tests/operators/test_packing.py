"""Sign bits in words: exact, and the same as the contract says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.errors import CheckpointError
from bidiff_deploy.operators.sign_bits import BinaryWeight, pack_signs, unpack_signs, words_per_tap
from support.seeds import examples

shapes = st.tuples(st.integers(1, 9), st.integers(1, 100), st.sampled_from([1, 3]))


@examples(100)
@given(shapes, st.integers(0, 2 ** 32 - 1))
def test_bits_are_where_the_contract_says(shape, seed):
    cout, cin, k = shape
    weight = np.random.default_rng(seed).standard_normal((cout, cin, k, k)).astype(np.float32)
    words = pack_signs(weight)
    assert words.shape == (cout, k, k, words_per_tap(cin)) and words.dtype == np.int32
    unsigned = words.view(np.uint32)
    for channel in range(words_per_tap(cin) * 32):
        bit = unsigned[..., channel // 32] >> (channel % 32) & 1
        expected = (weight[:, channel] >= 0) if channel < cin else np.zeros((cout, k, k))
        assert np.array_equal(bit, expected)
    assert np.array_equal(unpack_signs(words, cin), np.where(weight >= 0, 1, -1))


def test_zero_of_either_sign_is_plus_one_and_counted():
    weight = np.array([0.0, -0.0, -1.0, 2.0], np.float32).reshape(1, 4, 1, 1)
    packed = BinaryWeight.from_float(weight, "w")
    assert packed.words.item() == 0b1011
    assert packed.zeros == 2
    assert packed.alpha.item() == np.float32(0.75)


def test_alpha_is_the_mean_magnitude_of_each_output_channel():
    weight = np.random.default_rng(1).standard_normal((5, 33, 3, 3)).astype(np.float32)
    packed = BinaryWeight.from_float(weight, "w")
    assert np.allclose(packed.alpha, np.abs(weight).mean((1, 2, 3)), rtol=1e-6)
    again = BinaryWeight.from_float(packed.to_float(), "w")
    assert np.array_equal(again.words, packed.words)
    assert np.array_equal(again.alpha, packed.alpha)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_without_a_sign_are_refused(bad):
    weight = np.ones((1, 2, 1, 1), np.float32)
    weight[0, 1] = bad
    with pytest.raises(CheckpointError, match="conv1.*NaN or infinite"):
        BinaryWeight.from_float(weight, "conv1")
