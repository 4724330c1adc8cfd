// The tensors of a node as a problem for the CUDA kernels, checked against the op contract.
#pragma once

#include <vector>

#include "../cuda/problem.h"
#include "../kernels/check.h"
#include "operators.h"

namespace bidiff::tensorrt {

enum class Type { kFloat32, kFloat16, kInt32, kOther };

struct Tensor {
  Dims dims;
  Type type;
  bool linear;  // contiguous, in the order of its dimensions
};

// Attributes of a node: README.md.
struct Attributes {
  int64_t groups = 0;
  int64_t inputs = kLeadingInputs;
  int64_t kernel = 0;  // 0: words as in the contract; 1 or 3: prepared for kernels of this size
  int64_t layout = 0;  // prepared_layout_number() of prepared words
};

// Throws cuda::Error with one sentence for attributes that no graph may have.
void check_attributes(const Operator& of, const Attributes& attributes);

struct NodeProblem {
  cuda::Problem problem;
  int branches;
  cuda::Pointer words[2];  // of the contract's form; 0 where they are prepared
};

// Throws cuda::Error with one sentence for shapes or types that contradict the contract. Without
// `pointers` only x and the branches are read, whose shapes determine what memory is needed: all
// their pointers are 1, and an odd height or width of BinaryDown's x counts as the next, because
// the largest shape of a profile may be one that is never run.
NodeProblem read_problem(const Operator& of, const Attributes& attributes,
                         const std::vector<Input>& present, const Tensor* inputs,
                         const void* const* pointers, void* y);

}  // namespace bidiff::tensorrt
