// GroupNorm and Swish: the contract of norm.cpp.
#pragma once

#include "maps.h"

namespace bidiff {

struct Norm {
  const float* scale;  // (C)
  const float* bias;   // (C)
  int64_t groups;      // divides C
  float epsilon;
};

struct NormKernel {
  // affine (N, C, 2): pairs (a, b) such that GroupNorm(x)[n, c] = a * x + b. The same bits for any
  // number of threads. Mean and variance are summed so that their error is far below float32's
  // rounding of the input. False if memory is short.
  bool (*affine)(const float* x, const MapShape& shape, const Norm& norm, float* affine,
                 const Parallel& parallel);
  // h[i] = n / (1 + exp(-n)) with n = a * x[i] + b, for i < count; h may be x. An element's result
  // depends on its own value alone, not on its position or on count.
  void (*affine_swish)(const float* x, float a, float b, size_t count, float* h);
  // h[i] = a * x[i] + b, for i < count; h may be x.
  void (*affine_map)(const float* x, float a, float b, size_t count, float* h);
  // The whole op: y = swish(GroupNorm(x)), both (N, C, H, W). False if memory is short.
  bool (*norm_swish)(const float* x, const MapShape& shape, const Norm& norm, float* y,
                     const Parallel& parallel);
};

}  // namespace bidiff
