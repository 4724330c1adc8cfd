// A vector of BIDIFF_LANES floats in the compiler's own vector types: one source for AVX-512, AVX2,
// SSE2 and NEON. For the .cpp files of this folder only; unnamed namespace, see maps.h.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../kernels/inline.h"

namespace bidiff {
namespace {

constexpr int kLanes = BIDIFF_LANES;
typedef float Floats __attribute__((vector_size(4 * BIDIFF_LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * BIDIFF_LANES)));

BIDIFF_INLINE Floats load(const float* from) {
  Floats value;
  memcpy(&value, from, sizeof(value));
  return value;
}
BIDIFF_INLINE void store(float* to, Floats value) { memcpy(to, &value, sizeof(value)); }

// The first `count` floats, zeros after them; nothing beyond them is read.
BIDIFF_INLINE Floats load_part(const float* from, int64_t count) {
  Floats value = {};
  memcpy(&value, from, static_cast<size_t>(count) * sizeof(float));
  return value;
}
BIDIFF_INLINE void store_part(float* to, Floats value, int64_t count) {
  memcpy(to, &value, static_cast<size_t>(count) * sizeof(float));
}
BIDIFF_INLINE Floats splat(float value) { return value - Floats{}; }

// A lane of `yes` where the lane of `mask` is -1, of `no` where it is 0.
BIDIFF_INLINE Floats select(Ints mask, Floats yes, Floats no) { return mask ? yes : no; }

// exp(x) within 2 units in the last place for x in [-87.3, 88.7]; outside it, tiny numbers near 0
// or large ones near 3.4e38. NaN stays NaN. x = n * ln 2 + r, |r| <= ln(2) / 2: exp(r) by a
// polynomial of degree 6, 2^n by its exponent bits.
BIDIFF_INLINE Floats exp(Floats x) {
  const Floats low = splat(-87.3f), high = splat(88.7f);
  Floats bounded = select(x < low, low, x);
  bounded = select(bounded > high, high, bounded);
  const Floats shifted = bounded * splat(1.44269504f) + splat(12582912.0f);  // 1.5 * 2^23: rounds
  const Floats n = shifted - splat(12582912.0f);
  Floats r = bounded - n * splat(0.693359375f);
  r = r + n * splat(2.12194440e-4f);
  Floats p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * r * r + r + splat(1.0f);
  Ints bits;
  memcpy(&bits, &shifted, sizeof(bits));
  Ints power = (bits - 0x4b400000 + 127) << 23;
  Floats scale;
  memcpy(&scale, &power, sizeof(scale));
  return p * scale;
}

}  // namespace
}  // namespace bidiff
