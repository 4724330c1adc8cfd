"""Noise is N(0, 1), a function of its coordinates, and the same everywhere."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiff_deploy.errors import UsageError
from bidiff_deploy.sampling.noise import _cos_turns, _log, gaussian_noise, philox4x32
from support.seeds import examples

FULL = 0xFFFFFFFF


# The known answers that Random123 publishes for philox4x32 with 10 rounds.
@pytest.mark.parametrize(("counter", "key", "words"), [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1))])
def test_philox_known_answers(counter, key, words) -> None:
    found = philox4x32(tuple(np.uint64(word) for word in counter), key[0] | key[1] << 32)
    assert tuple(map(int, found)) == words


def test_an_element_from_its_definition() -> None:
    # Element (image 5, channel 2, y 7, x 9), by the maths library instead of our polynomials.
    a, b, c, d = philox4x32((np.uint64(9), np.uint64(7), np.uint64(2), np.uint64(5)), 1 << 40)
    u = ((int(a) << 21 | int(b) >> 11) + 1) * 2.0 ** -53
    v = (int(c) << 21 | int(d) >> 11) * 2.0 ** -53
    expected = math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)
    found = gaussian_noise((6, 3, 8, 10), 1 << 40)
    assert found[5, 2, 7, 9] == np.float32(expected)


def test_the_bytes_never_change() -> None:
    # Every result made with a seed depends on them; the same with or without AVX2 and AVX-512.
    found = gaussian_noise((2, 3, 64, 65), 123456789012345)
    assert found.dtype == np.float32
    assert hashlib.sha256(found.astype("<f4").tobytes()).hexdigest() == (
        "928fc302be1505807554b681a7873cfbe18722cc5ea0c61fa581a210156db3b7")


@examples(60)
@given(seed=st.integers(0, 2**64 - 1), data=st.data(),
       origin=st.tuples(*[st.integers(0, 2**32 - 64)] * 3))
def test_a_crop_is_a_crop_of_the_whole(seed: int, data: st.DataObject, origin) -> None:
    image, top, left = origin
    n, h, w = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40)),
               data.draw(st.integers(1, 40)))
    whole = gaussian_noise((n, 3, h, w), seed, image=image, top=top, left=left)
    i, y, x = (data.draw(st.integers(0, size - 1)) for size in (n, h, w))
    crop = gaussian_noise((n - i, 2, h - y, w - x), seed, image=image + i, top=top + y,
                          left=left + x)
    np.testing.assert_array_equal(crop, whole[i:, :2, y:, x:])


def test_blocks_do_not_show() -> None:
    # Wider, and of more elements, than what is computed at a time.
    whole = gaussian_noise((1, 1, 3, (1 << 15) + 100), 3)
    np.testing.assert_array_equal(whole[:, :, 1:, -200:],
                                  gaussian_noise((1, 1, 2, 200), 3, top=1, left=(1 << 15) - 100))
    tall = gaussian_noise((1, 1, 700, 100), 3)
    np.testing.assert_array_equal(tall[:, :, 650:, :], gaussian_noise((1, 1, 50, 100), 3, top=650))


def test_moments_and_independence() -> None:
    x = gaussian_noise((2, 3, 256, 256), 2026).astype(np.float64)
    count = x.size
    # Five standard deviations of each statistic; the seed is fixed, so this cannot flicker.
    assert abs(x.mean()) < 5 / math.sqrt(count)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((x ** 3).mean()) < 5 * math.sqrt(15 / count)
    assert abs((x ** 4).mean() - 3) < 5 * math.sqrt(96 / count)
    pairs = {"right": (x[..., 1:], x[..., :-1]), "below": (x[..., 1:, :], x[..., :-1, :]),
             "diagonal": (x[..., 1:, 1:], x[..., :-1, :-1]), "channel": (x[:, 1:], x[:, :-1]),
             "transposed": (x, x.swapaxes(2, 3)), "image": (x[1:], x[:-1]),
             "seed": (x, gaussian_noise(x.shape, 2027)),
             "high seed": (x, gaussian_noise(x.shape, 2026 + (1 << 32)))}
    for name, (first, second) in pairs.items():
        # A transposed field repeats every pair, and its diagonal is equal, hence the factors.
        bound = 5 * math.sqrt(2 / first.size) + (1 / 256 if name == "transposed" else 0)
        assert abs((first * second).mean()) < bound, name
        squares = ((first ** 2 - 1) * (second ** 2 - 1)).mean()
        assert abs(squares) < 2 * bound + (2 / 256 if name == "transposed" else 0), name


def test_the_distribution_is_normal() -> None:
    x = np.sort(gaussian_noise((1, 1, 256, 256), 11).ravel().astype(np.float64))
    cumulative = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    distance = np.abs(cumulative - (np.arange(x.size) + 0.5) / x.size).max()
    assert distance < 1.63 / math.sqrt(x.size)  # Kolmogorov-Smirnov, 1 %


def test_logarithm_and_cosine() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.random(10000), 2.0 ** -np.arange(54.0), 1 - 2.0 ** -np.arange(1, 54.0),
                        2.0 ** -53 * np.arange(1, 100)])
    np.testing.assert_allclose(_log(x), np.log(x), rtol=1e-15, atol=0)
    turns = np.concatenate([rng.random(10000), np.arange(16) / 16, [1 - 2.0 ** -53]])
    # numpy multiplies by 2 pi before it reduces, which alone costs 4e-16.
    np.testing.assert_allclose(_cos_turns(turns), np.cos(2 * np.pi * turns), rtol=0, atol=1e-15)
    assert _cos_turns(np.array([0.25, 0.75])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("arguments", "words"), [
    ({"seed": -1}, "seed is -1"), ({"seed": 1 << 64}, "seed is"), ({"seed": 1.0}, "whole"),
    ({"seed": True}, "whole"), ({"seed": None}, "whole"), ({"top": -1}, "top"),
    ({"left": 1 << 32}, "left"), ({"image": (1 << 32) - 1, "shape": (2, 1, 1, 1)}, "image"),
    ({"shape": (1, 1, -1, 1)}, "shape")])
def test_bad_arguments(arguments: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        gaussian_noise(**{"shape": (1, 1, 1, 1), "seed": 0, **arguments})


def test_numpy_seeds_and_empty_shapes() -> None:
    np.testing.assert_array_equal(gaussian_noise((1, 1, 2, 2), np.int64(5)),
                                  gaussian_noise((1, 1, 2, 2), 5))
    assert gaussian_noise((0, 3, 4, 0), 1).shape == (0, 3, 4, 0)
