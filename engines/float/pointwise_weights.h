// The packed weights of a 1x1 convolution. For pointwise.cpp only; unnamed namespace, see maps.h.
#pragma once

#include "gemm.h"

namespace bidiff {
namespace {

// Packed weights: tiles of kTileRows rows, each (depth cells, kTileRows) as left_place() has them,
// zeros beyond the last row; then the scales of all rows of integers.
template <class Math>
int64_t weight_floats(int64_t out_channels, int64_t in_channels) {
  return quotient_up(out_channels, kTileRows) * kTileRows * cells_of<Math>(in_channels);
}
template <class Math>
size_t bytes_of(int64_t out_channels, int64_t in_channels) {
  const int64_t scales = Math::kScaled ? quotient_up(out_channels, kTileRows) * kTileRows : 0;
  return static_cast<size_t>(weight_floats<Math>(out_channels, in_channels) + scales) *
         sizeof(float);
}

template <class Math>
void pack_weight(const float* weight, int64_t rows, int64_t depth, float* packed) {
  const int64_t cells = cells_of<Math>(depth);
  float* const scales = packed + weight_floats<Math>(rows, depth);
  memset(packed, 0, bytes_of<Math>(rows, depth));
  for (int64_t row = 0; row < rows; ++row, weight += depth) {
    float* const tile = packed + row / kTileRows * kTileRows * cells;
    float factor = 1;
    if constexpr (Math::kScaled) {
      RowScale magnitudes;
      for (int64_t i = 0; i < depth; ++i) magnitudes.add(static_cast<double>(weight[i]));
      const double scale = magnitudes.of<Math>(depth);
      scales[row] = static_cast<float>(scale);
      factor = static_cast<float>(scale > 0 ? 1 / scale : 0);
    }
    for (int64_t i = 0; i < depth; ++i) {
      const int64_t place = left_place<Math>(i / Math::kDepth, row % kTileRows, kTileRows);
      put_factor<Math>(tile + place, i % Math::kDepth, weight[i] * factor);
    }
  }
}

inline size_t packed_bytes(int64_t out_channels, int64_t in_channels, Precision precision) {
  const bool rounded = precision == Precision::kBfloat16;
  return (rounded ? bytes_of<Rounded> : bytes_of<Float32>)(out_channels, in_channels);
}

inline void pack(const float* weight, int64_t out_channels, int64_t in_channels,
                 Precision precision, void* packed) {
  const bool rounded = precision == Precision::kBfloat16;
  (rounded ? pack_weight<Rounded> : pack_weight<Float32>)(weight, out_channels, in_channels,
                                                          static_cast<float*>(packed));
}

}  // namespace
}  // namespace bidiff
