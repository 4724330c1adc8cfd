// The products of a block of tiles: for every frequency, sums (Cout, tiles) = weights (Cout, Cin)
// times values (Cin, tiles).
//
// Values and weights consist of cells, see factors.h; `depth` counts their rows.
#pragma once

#include "conv3x3_transform.h"
#include "factors.h"

namespace bidiff {
namespace {

// Output channels whose sums stay in registers together, for up to kMaxVectors vectors of tiles: 24
// of AVX-512's and NEON's 32 registers, 12 of the 16 of other instruction sets.
#if BIDIFF_LANES == 16 || defined(__aarch64__)
constexpr int kPanel = 8;
#else
constexpr int kPanel = 4;
#endif
constexpr int kMaxVectors = 3;

// The sums of a panel, two rows and two rows of cells at a time.
template <class Math, int kRows, int kVectors>
BIDIFF_INLINE void add_paired_products(const float* weights, const float* values, int64_t depth,
                                       int64_t pitch, Floats (*sum)[kVectors]) {
  for (int64_t k = 0; k < depth; k += 2) {
    Floats rows[kRows / 2];
#pragma GCC unroll 4
    for (int i = 0; i < kRows / 2; ++i) rows[i] = load(weights + i * kLanes);
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      const Floats lower = load(values + v * kLanes), upper = load(values + pitch + v * kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < kRows / 2; ++i) {
        sum[2 * i][v] = Math::multiply_add(rows[i], lower, sum[2 * i][v]);
        sum[2 * i + 1][v] = Math::multiply_add(rows[i], upper, sum[2 * i + 1][v]);
      }
    }
    weights += 2 * kPanel;
    values += 2 * pitch;
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows / 2; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) Math::split_rows(&sum[2 * i][v], &sum[2 * i + 1][v]);
  }
}

// weights [depth][kPanel], values [depth][pitch], sums [kRows][pitch]. The loops over sums must be
// unrolled early, or gcc keeps the array in memory around the loop over depth.
template <class Math, int kRows, int kVectors>
__attribute__((noinline)) void multiply_panel(const float* weights, const float* values,
                                              int64_t depth, int64_t pitch, Scales scales,
                                              float* sums) {
  Floats sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[row][v] = splat(0.0f);
  }
  if constexpr (Math::kCellRows == 2) {
    add_paired_products<Math, kRows, kVectors>(weights, values, depth, pitch, sum);
  } else {
    for (int64_t k = 0; k < depth; ++k) {
      Floats value[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) value[v] = load(values + v * kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) {
          sum[row][v] = Math::multiply_add(Math::broadcast(weights + row), value[v], sum[row][v]);
        }
      }
      weights += kPanel;
      values += pitch;
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      Floats value = Math::sums(sum[row][v]);
      if (Math::kScaled) value *= splat(scales.rows[row]) * load(scales.columns + v * kLanes);
      store(sums + row * pitch + v * kLanes, value);
    }
  }
}

template <class Math, int kRows>
BIDIFF_INLINE void multiply_rows(const float* weights, const float* values, int64_t depth,
                                 int64_t vectors, Scales scales, float* sums) {
  const int64_t pitch = vectors * kLanes;
  // Parts are as equal as possible: a single vector has too few sums to hide the multiplier's
  // latency.
  int64_t parts = (vectors + kMaxVectors - 1) / kMaxVectors;
  for (int64_t left = vectors; left > 0; --parts) {
    const int64_t count = (left + parts - 1) / parts;
    const int64_t at = (vectors - left) * kLanes;
    const Scales here = {scales.rows, Math::kScaled ? scales.columns + at : nullptr};
    if (count == 3) {
      multiply_panel<Math, kRows, 3>(weights, values + at, depth, pitch, here, sums + at);
    } else if (count == 2) {
      multiply_panel<Math, kRows, 2>(weights, values + at, depth, pitch, here, sums + at);
    } else {
      multiply_panel<Math, kRows, 1>(weights, values + at, depth, pitch, here, sums + at);
    }
    left -= count;
  }
}

BIDIFF_INLINE int64_t panels(int64_t out_channels) { return (out_channels + kPanel - 1) / kPanel; }

// One frequency: weights [panel][depth][kPanel], values [depth][vectors * kLanes], sums
// [channels of whole panels][vectors * kLanes].
template <class Math>
void multiply(const float* weights, const float* values, int64_t depth, int64_t vectors,
              int64_t out_channels, Scales scales, float* sums) {
  for (int64_t channel = 0; channel < out_channels; channel += kPanel) {
    if (out_channels - channel > kPanel / 2) {
      multiply_rows<Math, kPanel>(weights, values, depth, vectors, scales, sums);
    } else {
      multiply_rows<Math, kPanel / 2>(weights, values, depth, vectors, scales, sums);
    }
    weights += depth * kPanel;
    if (Math::kScaled) scales.rows += kPanel;
    sums += kPanel * vectors * kLanes;
  }
}

}  // namespace
}  // namespace bidiff
