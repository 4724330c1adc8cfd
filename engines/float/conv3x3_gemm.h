// The products of a block of tiles: for every frequency, sums (Cout, tiles) = weights (Cout, Cin)
// times values (Cin, tiles).
//
// All operands are read in units of 32 bits: one float32, or the bfloat16 values of two channels.
#pragma once

#include "conv3x3_transform.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace bidiff {
namespace {

#if defined(__AVX512BF16__)
constexpr bool kHasBfloat16 = true;
#else
constexpr bool kHasBfloat16 = false;
#endif

// Output channels whose sums stay in registers together, for up to kMaxVectors vectors of tiles: 24
// of AVX-512's and NEON's 32 registers, 12 of the 16 of other instruction sets.
#if BIDIFF_LANES == 16 || defined(__aarch64__)
constexpr int kPanel = 8;
#else
constexpr int kPanel = 4;
#endif
constexpr int kMaxVectors = 3;

template <bool kBf16>
BIDIFF_INLINE void multiply_add(Floats& sum, const float* weight, Floats value) {
#if defined(__AVX512BF16__)
  if (kBf16) {
    int32_t pair;
    memcpy(&pair, weight, sizeof(pair));
    sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)),
                           reinterpret_cast<__m512bh>(value));
    return;
  }
#endif
  sum += splat(*weight) * value;
}

// weights [depth][kPanel], values [depth][pitch], sums [kRows][pitch]. The loops over sums must be
// unrolled early, or gcc keeps the array in memory around the loop over depth.
template <bool kBf16, int kRows, int kVectors>
__attribute__((noinline)) void multiply_panel(const float* weights, const float* values,
                                              int64_t depth, int64_t pitch, float* sums) {
  Floats sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[row][v] = splat(0.0f);
  }
  for (int64_t k = 0; k < depth; ++k) {
    Floats value[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) value[v] = load(values + v * kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) multiply_add<kBf16>(sum[row][v], weights + row, value[v]);
    }
    weights += kPanel;
    values += pitch;
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) store(sums + row * pitch + v * kLanes, sum[row][v]);
  }
}

template <bool kBf16, int kRows>
BIDIFF_INLINE void multiply_rows(const float* weights, const float* values, int64_t depth,
                                 int64_t vectors, float* sums) {
  const int64_t pitch = vectors * kLanes;
  // Parts are as equal as possible: a single vector has too few sums to hide the multiplier's
  // latency.
  int64_t parts = (vectors + kMaxVectors - 1) / kMaxVectors;
  for (int64_t left = vectors; left > 0; --parts) {
    const int64_t count = (left + parts - 1) / parts;
    const int64_t at = (vectors - left) * kLanes;
    if (count == 3) {
      multiply_panel<kBf16, kRows, 3>(weights, values + at, depth, pitch, sums + at);
    } else if (count == 2) {
      multiply_panel<kBf16, kRows, 2>(weights, values + at, depth, pitch, sums + at);
    } else {
      multiply_panel<kBf16, kRows, 1>(weights, values + at, depth, pitch, sums + at);
    }
    left -= count;
  }
}

BIDIFF_INLINE int64_t panels(int64_t out_channels) { return (out_channels + kPanel - 1) / kPanel; }

// One frequency: weights [panel][depth][kPanel], values [depth][vectors * kLanes], sums
// [channels of whole panels][vectors * kLanes].
template <bool kBf16>
void multiply(const float* weights, const float* values, int64_t depth, int64_t vectors,
              int64_t out_channels, float* sums) {
  for (int64_t channel = 0; channel < out_channels; channel += kPanel) {
    if (out_channels - channel > kPanel / 2) {
      multiply_rows<kBf16, kPanel>(weights, values, depth, vectors, sums);
    } else {
      multiply_rows<kBf16, kPanel / 2>(weights, values, depth, vectors, sums);
    }
    weights += depth * kPanel;
    sums += kPanel * vectors * kLanes;
  }
}

}  // namespace
}  // namespace bidiff
