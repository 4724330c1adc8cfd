// One BinaryConv inside a fused operator: its inputs, its packed words.
#pragma once

#include "../float/select.h"
#include "../kernels/fused.h"
#include "../kernels/packed_weights.h"
#include "../kernels/select.h"
#include "node.h"

namespace bidiff::ort {

// The kernel of this process; throws a refusal if there is none.
inline const Kernel& kernel_or_refuse(const Api& api) {
  std::string error;
  const Kernel* kernel = selected_kernel(&error);
  refuse_unless_empty(api, error);
  return *kernel;
}

// Inputs words, alpha, threshold, rprelu at `first` and the three after it.
class BinaryBranch {
 public:
  // `x_channels` of the convolution's input, or less than 1 if unknown.
  BinaryBranch(const Api& api, const KernelInfo* info, const Kernel& kernel, size_t first,
               int64_t x_channels)
      : kernel_(kernel), first_(first) {
    const Tensor words = constant_input(api, info, first);
    constant_ = words.data != nullptr;
    if (!constant_ || x_channels < 1) return;
    Shape shape{};
    refuse_unless_empty(api, read_shape({1, x_channels, 1, 1}, words.dims, &shape));
    packed_.get(kernel_, shape, words.integers());
  }

  // Fills shape, alpha, threshold and rprelu for an input of `x_dims`.
  void read(const Call& call, const Dims& x_dims, Problem* problem) const {
    const Tensor words = call.input(first_), alpha = call.input(first_ + 1);
    call.require(read_shape(x_dims, words.dims, &problem->shape));
    const Shape& shape = problem->shape;
    problem->alpha = call.vector(alpha, "alpha", shape.out_channels, false);
    const Tensor threshold = call.input(first_ + 2), rprelu = call.input(first_ + 3);
    if (threshold.data) {
      problem->threshold = call.vector(threshold, "threshold", shape.in_channels, false);
    }
    if (rprelu.data) {
      call.require(check_rprelu(rprelu.dims, shape));
      problem->rprelu = rprelu.floats();
    }
  }

  bool run(Call& call, const Problem& problem) {
    const int32_t* words = call.input(first_).integers();
    const std::shared_ptr<const void> packed = constant_
                                                   ? packed_.get(kernel_, problem.shape, words)
                                                   : pack_weights(kernel_, problem.shape, words);
    return packed && run_fused(kernel_, problem, packed.get(), call.parallel());
  }

 private:
  const Kernel& kernel_;
  size_t first_;
  bool constant_ = false;
  PackedWeights packed_;
};

}  // namespace bidiff::ort
