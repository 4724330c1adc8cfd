"""Seeded N(0, 1) noise as a function of (seed, image, channel, y, x).

The counter-based generator has no state: every element is computed from its own coordinates. So
the noise of a crop is a crop of the whole noise, tiles agree where they overlap, and every backend
starts from the same latent.

Bits: Philox-4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011). Normals: Box and Muller, "A note on the generation of random normal deviates", 1958.

The result is the same bit for bit wherever float64 follows IEEE 754: the logarithm, sine and
cosine are written out below in additions, multiplications and divisions, each a separate numpy
call, so that no compiler can fuse two. Those of maths libraries differ between machines.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..checks import whole_number

__all__ = ["NO_NOISE", "first_noise", "gaussian_noise", "philox4x32"]

NO_NOISE = "none"  # a model's ``sampling["noise"]`` if it starts from the image alone

Words = npt.NDArray[np.uint64]
Doubles = npt.NDArray[np.float64]
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the two key words after every round
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_BLOCK = 1 << 15  # elements at a time, so that temporaries fit in the cache

# log m = 2 s (1 + s^2/3 + s^4/5 + ...), s = (m - 1) / (m + 1); |s| < 0.172, so that eleven terms
# reach 1e-17. The Taylor series of sine and cosine on [-pi/4, pi/4] reach it with eight and nine.
_LOG = [1 / (2 * n + 1) for n in range(11)]
_SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(8)]
_COS = [(-1) ** n / math.factorial(2 * n) for n in range(9)]
_LN2 = 0.6931471805599453


def gaussian_noise(shape: tuple[int, int, int, int], seed: int, *, image: int = 0, top: int = 0,
                   left: int = 0) -> npt.NDArray[np.float32]:
    """float32 noise of ``shape`` (N, C, H, W), N(0, 1).

    Element (n, c, y, x) depends only on (seed, image + n, c, top + y, left + x): the noise at
    ``top``, ``left`` is that crop of the noise of the whole image. ``seed``: 0 to 2^64 - 1;
    coordinates below 2^32. Raises UsageError otherwise. Values are within +-8.6.
    """
    count, channels, height, width = (whole_number("noise shape", n, 0, 1 << 32) for n in shape)
    seed = whole_number("seed", seed, 0, (1 << 64) - 1)
    image = whole_number("image", image, 0, (1 << 32) - count)
    top = whole_number("top", top, 0, (1 << 32) - height)
    left = whole_number("left", left, 0, (1 << 32) - width)
    out = np.empty((count, channels, height, width), np.float32)
    if not out.size:
        return out
    columns = min(width, _BLOCK)
    rows = max(1, _BLOCK // columns)
    for n in range(count):
        for c in range(channels):
            for y in range(0, height, rows):
                for x in range(0, width, columns):
                    field = out[n, c, y:y + rows, x:x + columns]
                    ys, xs = (np.arange(size, dtype=np.uint64) for size in field.shape)
                    counter = (xs + np.uint64(left + x), ys[:, None] + np.uint64(top + y),
                               np.array(c, np.uint64), np.array(image + n, np.uint64))
                    field[...] = _box_muller(*philox4x32(counter, seed))
    return out


def first_noise(shape: tuple[int, int, int, int], seed: int, noiseless: bool, *, image: int = 0,
                top: int = 0, left: int = 0) -> npt.NDArray[np.float32]:
    """The noise that a loop starts from: zeros if ``noiseless``, else ``gaussian_noise``, whose
    arguments are checked in either case."""
    drawn = (0, 0, 0, 0) if noiseless else shape
    noise = gaussian_noise(drawn, seed, image=image, top=top, left=left)
    return np.zeros(shape, np.float32) if noiseless else noise


def philox4x32(counter: tuple[Words, ...], key: int) -> tuple[Words, ...]:
    """The four 32-bit words, as uint64 arrays, of Philox-4x32-10 at each counter.

    ``counter``: four uint64 arrays (values below 2^32) that broadcast against each other, word 0
    first. ``key``: 64 bits, the low half being key word 0.
    """
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a = (second >> _32) ^ b ^ np.uint64(low)
        c = (first >> _32) ^ d ^ np.uint64(high)
        b, d = second & _LOW, first & _LOW
        low, high = (low + _WEYL[0]) & 0xFFFFFFFF, (high + _WEYL[1]) & 0xFFFFFFFF
    return a, b, c, d


def _box_muller(a: Words, b: Words, c: Words, d: Words) -> Doubles:
    """sqrt(-2 log u) cos(2 pi v) in float64, with u in (0, 1] and v in [0, 1) of 53 bits each."""
    u = (_53_bits(a, b) + 1.0) * 2.0 ** -53
    v = _53_bits(c, d) * 2.0 ** -53
    # sqrt is exactly rounded by IEEE 754, unlike the functions below.
    return np.sqrt(-2.0 * _log(u)) * _cos_turns(v)


def _53_bits(high: Words, low: Words) -> Doubles:
    bits: Words = (high << np.uint64(21)) | (low >> np.uint64(11))
    return bits.astype(np.float64)


def _log(x: Doubles) -> Doubles:
    """Natural logarithm of positive float64."""
    mantissa, exponent = np.frexp(x)  # exact
    small = mantissa < math.sqrt(0.5)
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    exponent = exponent - small
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent * _LN2 + 2.0 * s * _polynomial(_LOG, s * s)


def _cos_turns(turns: Doubles) -> Doubles:
    """cos(2 pi turns) for turns in [0, 1)."""
    quarter = np.floor(4.0 * turns + 0.5)
    angle = (turns - 0.25 * quarter) * (2.0 * math.pi)  # the difference is exact
    square = angle * angle
    cosine, sine = _polynomial(_COS, square), angle * _polynomial(_SIN, square)
    odd = (quarter == 1.0) | (quarter == 3.0)
    negative = (quarter == 1.0) | (quarter == 2.0)
    value = np.where(odd, sine, cosine)
    signed: Doubles = np.where(negative, -value, value)
    return signed


def _polynomial(coefficients: list[float], x: Doubles) -> Doubles:
    value = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value *= x
        value += coefficient
    return value
