// Single-head self-attention over all positions of a map: the contract of attention.cpp.
#pragma once

#include "maps.h"

namespace bidiff {

//   y[n, c, i] = sum over j of softmax_j(sum over d of q[d, i] * k[d, j] / sqrt(C)) * v[c, j]
//                + bias[c] + skip[n, c, i]
// The map of all pairs (i, j) is never stored: it is computed in blocks, with a running maximum.
struct AttentionProblem {
  int64_t batch, channels, positions;
  const float* query_value;  // (N, 2C, H*W): query, then value
  const float* key;          // (N, C, H*W)
  const float* bias;         // (C)
  const float* skip;         // (N, C, H*W)
  float* y;                  // (N, C, H*W)
};

struct AttentionKernel {
  // False if memory is short.
  bool (*run)(const AttentionProblem& problem, Precision precision, const Parallel& parallel);
};

}  // namespace bidiff
