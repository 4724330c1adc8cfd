// Full-precision 1x1 convolution of one map, or of two concatenated: the contract of pointwise.cpp.
#pragma once

#include "maps.h"

namespace bidiff {

// y = weight . [x; second] + bias: channels of `second` follow those of x, without a copy.
struct PointwiseProblem {
  MapShape shape;           // of x
  int64_t second_channels;  // 0: no second map
  int64_t out_channels;
  const float* x;       // (N, C, H, W)
  const float* second;  // (N, C2, H, W); or null
  const float* bias;    // (Cout); or null
  const float* skip;    // (N, Cout, H, W), added; or null
  float* y;             // (N, Cout, H, W)
};

struct PointwiseKernel {
  // The kernel's own form of weight (Cout, C + C2), aligned to kPackedAlignment.
  size_t (*packed_bytes)(int64_t out_channels, int64_t in_channels, Precision precision);
  void (*pack)(const float* weight, int64_t out_channels, int64_t in_channels, Precision precision,
               void* packed);
  // False if memory is short.
  bool (*run)(const PointwiseProblem& problem, const void* packed, Precision precision,
              const Parallel& parallel);
};

}  // namespace bidiff
