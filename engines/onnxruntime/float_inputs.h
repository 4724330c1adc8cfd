// Inputs that the operators with full-precision parts share.
#pragma once

#include <memory>
#include <mutex>

#include "../float/select.h"
#include "../kernels/select.h"
#include "node.h"

namespace bidiff::ort {

constexpr float kEpsilon = 1e-5f;  // of GroupNorm

// The float kernels of this process; throws a refusal if there are none.
inline const FloatKernels& kernels_or_refuse(const Api& api) {
  std::string error;
  const Kernel* kernel = selected_kernel(&error);
  refuse_unless_empty(api, error);
  return float_kernels(*kernel);
}

// A weight (Cout, channels, k, k) for x.
inline void require_weight(const Call& call, const Tensor& weight, int64_t channels, int64_t k) {
  const Dims& dims = weight.dims;
  call.require(
      dims.size() == 4 && dims[0] >= 1 && dims[1] == channels && dims[2] == k && dims[3] == k,
      "weight must have shape (Cout, " + std::to_string(channels) + ", " + std::to_string(k) +
          ", " + std::to_string(k) + "), not " + text(dims));
}

// Inputs 1 and 2 as the scale and bias of a GroupNorm of x.
inline Norm read_norm(const Call& call, int64_t groups, int64_t channels) {
  call.require(groups >= 1 && channels % groups == 0,
               "groups " + std::to_string(groups) + " must divide the " + std::to_string(channels) +
                   " channels of x");
  return {call.vector(call.input(1), "scale", channels, false),
          call.vector(call.input(2), "bias", channels, false), groups, kEpsilon};
}

// The attribute `compute`, the type that full-precision factors may be rounded to.
inline Precision read_precision(const Api& api, const KernelInfo* info, const char* op) {
  const std::string compute = text_attribute(api, info, "compute");
  if (compute == "bfloat16") return Precision::kBfloat16;
  // float16 is for GPUs; these kernels do not use that permission.
  refuse_unless_empty(api, compute == "float32" || compute == "float16"
                               ? ""
                               : "bidiff::" + std::string(op) +
                                     ": compute must be float32, bfloat16 or float16, not '" +
                                     compute + "'");
  return Precision::kFloat32;
}

// A weight in a kernel's own form: made once if the tensor is constant.
template <class Kernel>
class PackedFloats {
 public:
  PackedFloats(const Kernel& kernel, Precision precision)
      : kernel_(kernel), precision_(precision) {}

  // Null when memory is short.
  std::shared_ptr<const void> get(const Tensor& weight, bool constant) {
    if (!constant) return make(weight);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!packed_) packed_ = make(weight);
    return packed_;
  }

 private:
  std::shared_ptr<const void> make(const Tensor& weight) const {
    const int64_t out = weight.dims[0], in = weight.dims[1];
    std::shared_ptr<void> packed(run_scratch(kernel_.packed_bytes(out, in, precision_)),
                                 free_run_scratch);
    if (packed) kernel_.pack(weight.floats(), out, in, precision_, packed.get());
    return packed;
  }

  const Kernel& kernel_;
  Precision precision_;
  std::mutex mutex_;
  std::shared_ptr<const void> packed_;
};

}  // namespace bidiff::ort
