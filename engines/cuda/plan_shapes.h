// Shapes of a problem: checked, and cut into tiles and parts. Host only.
#pragma once

#include "device/arguments.h"
#include "problem.h"

namespace bidiff::cuda {

// Throws Error if the shapes contradict the op contract or exceed what the kernels can index.
void check_shapes(const Problem& problem);
void check_weights(const Weights& weights);

inline bool has_norm(Op op) { return op == Op::kNormBinaryConv || op == Op::kGroupNormSwish; }
inline int branch_count(Op op) {
  return op == Op::kGroupNormSwish ? 0 : op == Op::kBinaryConv || op == Op::kNormBinaryConv ? 1 : 2;
}

// The map that a convolution's blocks cover. The shapes must have been checked.
Geometry geometry(const Problem& problem);

// Groups and parts of the norm's statistics; pointers are left 0.
NormArguments norm_parts(const Problem& problem);

// Byte offsets of the parts of a problem's workspace.
struct Workspace {
  size_t packed[2], partials, affine, bytes;
};
Workspace workspace(const Problem& problem);

}  // namespace bidiff::cuda
