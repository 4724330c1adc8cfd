// Single-head self-attention over all positions of a map: the contract of attention.cpp.
#pragma once

#include "maps.h"

namespace bidiff {

// With query, key and value (N, 3C, H*W) in thirds of the channels:
//   mixed[n, c, i] = sum over j of softmax_j(sum over d of q[d, i] * k[d, j] / sqrt(C)) * v[c, j]
// The map of all pairs (i, j) is never stored: it is computed in blocks, with a running maximum.
struct AttentionProblem {
  int64_t batch, channels, positions;
  const float* qkv;  // (N, 3C, H*W)
  float* mixed;      // (N, C, H*W)
};

struct AttentionKernel {
  // False if memory is short.
  bool (*run)(const AttentionProblem& problem, Precision precision, const Parallel& parallel);
};

}  // namespace bidiff
