// Full-precision 3x3 convolution, stride 1, zero padding 1: the contract of conv3x3.cpp (Winograd)
// and direct3x3.cpp (term by term, always float32).
#pragma once

#include "norm.h"

namespace bidiff {

// y = leaky(conv(h, weight) + bias + time) + skip, leaky(v) = v < 0 ? slope * v : v, with
// h = leaky(x) of `input_slope`, or swish(a * x + b) where `affine` is given (h is padded with
// zeros). Where `slope` is not 1, `skip` is no scalar.
struct ConvProblem {
  MapShape shape;  // of x
  int64_t out_channels;
  const float* x;       // (N, Cin, H, W)
  const float* affine;  // (N, Cin, 2) pairs (a, b) from NormKernel::affine; or null
  const float* bias;    // (Cout); or null
  const float* time;    // (Cout), or one element if time_is_scalar; or null
  bool time_is_scalar;
  const float* skip;  // (N, Cout, H, W), or one element if skip_is_scalar; or null
  bool skip_is_scalar;
  float* y;  // (N, Cout, H, W)
  float slope = 1, input_slope = 1;
};

struct ConvKernel {
  // Bytes of the kernel's own form of the weights (Cout, Cin, 3, 3); memory is aligned to
  // kPackedAlignment. `precision` must be the same for all three functions.
  size_t (*packed_bytes)(int64_t out_channels, int64_t in_channels, Precision precision);
  void (*pack)(const float* weight, int64_t out_channels, int64_t in_channels, Precision precision,
               void* packed);
  // False if memory is short.
  bool (*run)(const ConvProblem& problem, const void* packed, Precision precision,
              const NormKernel& norm, const Parallel& parallel);
};

}  // namespace bidiff
