// A vector of BIDIFF_LANES floats in the compiler's own vector types: one source for AVX-512, AVX2,
// SSE2 and NEON. For the .cpp files of this folder only; unnamed namespace, see maps.h.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../kernels/inline.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace bidiff {
namespace {

BIDIFF_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
BIDIFF_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
BIDIFF_INLINE int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

BIDIFF_INLINE int64_t round_up(int64_t value, int64_t to) { return quotient_up(value, to) * to; }

constexpr int kLanes = BIDIFF_LANES;
typedef float Floats __attribute__((vector_size(4 * BIDIFF_LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * BIDIFF_LANES)));

BIDIFF_INLINE Floats load(const float* from) {
  Floats value;
  memcpy(&value, from, sizeof(value));
  return value;
}
BIDIFF_INLINE void store(float* to, Floats value) { memcpy(to, &value, sizeof(value)); }

// The first `count` floats of a vector, zeros after them; nothing beyond them is read.
BIDIFF_INLINE Floats load_part(const float* from, int64_t count) {
  if (count >= kLanes) return load(from);
  Floats value = {};
  memcpy(&value, from, static_cast<size_t>(count) * sizeof(float));
  return value;
}
BIDIFF_INLINE void store_part(float* to, Floats value, int64_t count) {
  memcpy(to, &value, static_cast<size_t>(count) * sizeof(float));
}
// Stores past the caches, to an address that is a multiple of kLanes floats; stream_fence() orders
// it.
BIDIFF_INLINE void stream(float* to, Floats value) {
#if defined(__AVX512F__) && BIDIFF_LANES == 16
  _mm512_stream_ps(to, reinterpret_cast<__m512>(value));
#elif defined(__AVX__) && BIDIFF_LANES == 8
  _mm256_stream_ps(to, reinterpret_cast<__m256>(value));
#elif defined(__SSE2__) && BIDIFF_LANES == 4
  _mm_stream_ps(to, reinterpret_cast<__m128>(value));
#else
  store(to, value);
#endif
}
BIDIFF_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

BIDIFF_INLINE Floats splat(float value) { return value - Floats{}; }

// 32 bits that are no float, in every lane.
BIDIFF_INLINE Floats broadcast_bits(const float* cell) {
  int32_t bits;
  memcpy(&bits, cell, sizeof(bits));
  const Ints all = bits - Ints{};
  Floats value;
  memcpy(&value, &all, sizeof(value));
  return value;
}

BIDIFF_INLINE Floats magnitude(Floats value) {
  Ints bits;
  memcpy(&bits, &value, sizeof(bits));
  bits &= 0x7fffffff;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// The second one where one is NaN.
BIDIFF_INLINE Floats minimum(Floats a, Floats b) {
#if defined(__AVX512F__) && BIDIFF_LANES == 16
  return _mm512_min_ps(a, b);
#elif defined(__AVX__) && BIDIFF_LANES == 8
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}
BIDIFF_INLINE Floats maximum(Floats a, Floats b) {
#if defined(__AVX512F__) && BIDIFF_LANES == 16
  return _mm512_max_ps(a, b);
#elif defined(__AVX__) && BIDIFF_LANES == 8
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// LeakyReLU.
BIDIFF_INLINE Floats leaky(Floats value, float slope) {
  return value < Floats{} ? value * splat(slope) : value;
}
inline void leaky_row(const float* from, float slope, int64_t count, float* to) {
  for (; count >= kLanes; count -= kLanes, from += kLanes, to += kLanes) {
    store(to, leaky(load(from), slope));
  }
  store_part(to, leaky(load_part(from, count), slope), count);
}

constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: x + kRounder has round(x) in its lowest bits
constexpr int kExp2Terms = 7;
constexpr float kExp2[kExp2Terms] = {1.5353361e-4f, 1.3398875e-3f, 9.6184374e-3f, 5.5503325e-2f,
                                     2.4022648e-1f, 6.9314720e-1f, 1.0f};

// value * 2^n, n in the lowest bits of `shifted`.
BIDIFF_INLINE Floats times_power(Floats value, Floats shifted) {
  Ints power, bits;
  memcpy(&power, &shifted, sizeof(power));
  memcpy(&bits, &value, sizeof(bits));
  bits += power << 23;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// 2^t is to be computed: bounds t, leaves t - round(t) in it, and returns 2^round(t) as times()
// takes it. The bits are the same on every instruction set, but for powers below 2^-124.
BIDIFF_INLINE Floats split_exponent(Floats* t) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && BIDIFF_LANES == 16
  const Floats bounded = minimum(*t, splat(124.0f));
  *t = _mm512_reduce_ps(bounded, 0);
  return bounded - *t;
#else
  const Floats bounded = minimum(maximum(*t, splat(-124.0f)), splat(124.0f));
  const Floats shifted = bounded + splat(kRounder);
  *t = bounded - (shifted - splat(kRounder));
  return shifted;
#endif
}
BIDIFF_INLINE Floats times(Floats value, Floats power) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && BIDIFF_LANES == 16
  return _mm512_scalef_ps(value, power);
#else
  return times_power(value, power);
#endif
}

// p[i] = 2^t[i] for kCount vectors, step by step: one after the other, each waiting for its own
// results, they would fill the core's queues. t is overwritten. A t below -124 is as good as -124,
// or gives 0; NaN may become any number.
#define BIDIFF_EACH _Pragma("GCC unroll 8") for (int i = 0; i < kCount; ++i)
template <int kCount>
BIDIFF_INLINE void exp2_each(Floats* t, Floats* p) {
  Floats power[kCount];
  BIDIFF_EACH power[i] = split_exponent(&t[i]);
  BIDIFF_EACH p[i] = splat(kExp2[0]);
  for (int term = 1; term < kExp2Terms; ++term) {
    BIDIFF_EACH p[i] = p[i] * t[i] + splat(kExp2[term]);
  }
  BIDIFF_EACH p[i] = times(p[i], power[i]);
}

// 2^f for |f| <= 1/2 by a polynomial (minimax, relative error 2e-9), times 2^n.
BIDIFF_INLINE Floats exp2_parts(Floats f, Floats shifted) {
  Floats p = splat(kExp2[0]);
  for (int i = 1; i < kExp2Terms; ++i) p = p * f + splat(kExp2[i]);
  return times_power(p, shifted);
}

constexpr float kLog2E = 1.44269504f;

// exp(x) within 2 units in the last place for x in [-85, 85]; beyond it, its value at the nearer
// end. NaN may become any number. x = n * ln 2 + r, |r| <= ln(2) / 2, with ln 2 in two parts, of
// which the first has few bits.
BIDIFF_INLINE Floats exp(Floats x) {
  x = minimum(maximum(x, splat(-85.0f)), splat(85.0f));
  const Floats shifted = x * splat(kLog2E) + splat(kRounder);
  const Floats n = shifted - splat(kRounder);
  const Floats r = (x - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);
  return exp2_parts(r * splat(kLog2E), shifted);
}

// a / b for b in [1, 2^125], within 2 units in the last place. The division of AVX-512 occupies its
// unit for longer than the rest of a Swish takes.
BIDIFF_INLINE Floats quotient(Floats a, Floats b) {
#if defined(__AVX512F__) && BIDIFF_LANES == 16
  const Floats near = _mm512_rcp14_ps(b);
  return a * (near + near * (splat(1.0f) - b * near));
#else
  return a / b;
#endif
}

}  // namespace
}  // namespace bidiff
