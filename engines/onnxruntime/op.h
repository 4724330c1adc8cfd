// An operator's table of functions, made from a class that computes it.
//
// `Op` supplies: kName, kInputs, kRequired (inputs from there on are optional), kIntegers (a bit
// for each int32 input), kChannels and kSize for the output's shape, a constructor from (Api,
// KernelInfo), and compute(Call&). It runs on CPUs in float32 unless a `Registration` of its own
// says otherwise.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "node.h"

namespace bidiff::ort {

// Height and width of an operator's output relative to those of its first input.
enum class Size { kSame, kDouble, kHalf };
// Its channels: those of x, the same, doubled or halved, or the first dimension of input i.
constexpr int kChannelsOfX = -1, kTwiceOfX = -2, kHalfOfX = -3;

// Shape inference receives no OrtApi, so an op carries the one it was registered with; a runtime
// returns the same table for every request.
struct RegisteredOp : CustomOp {
  const Api* api;
};

// What the operators made of two binary convolutions declare: maps, then words, alpha, threshold
// and rprelu of each branch.
template <int kMapCount>
struct TwoBranchInputs {
  static constexpr size_t kInputs = kMapCount + 8, kRequired = kInputs;
  static constexpr unsigned kMaps = (1u << kMapCount) - 1;
  static constexpr unsigned kIntegers = 1u << kMapCount | 1u << (kMapCount + 4);
};

// Where an operator runs, and the types of its maps. ONNX Runtime picks among the kernels of one
// name by both.
template <class Op>
struct Registration {
  static const char* provider() { return "CPUExecutionProvider"; }
  static constexpr ElementType kOutput = kFloat;
  static ElementType input_type(size_t index) {
    return (Op::kIntegers >> index) & 1 ? kInt32 : kFloat;
  }
  static MemoryType memory_type(size_t) { return kDeviceMemory; }
};

// Output shape (N, C, H, W), as far as its inputs' are known, and x's element type: ONNX Runtime
// calls one kernel's function for every kernel of the same name.
void infer_map(const Api& api, ShapeInferContext* context, int channels, Size size);

template <class Op>
Status* create_kernel(const CustomOp*, const Api* api, const KernelInfo* info, void** out) {
  return guarded(*api, Op::kName, [&] { *out = new Op(*api, info); });
}

template <class Op>
Status* compute_kernel(void* kernel, KernelContext* context) {
  Op& op = *static_cast<Op*>(kernel);
  return guarded(op.api, Op::kName, [&] {
    Call call(op.api, context, Op::kName);
    op.compute(call);
  });
}

template <class Op>
Status* infer_shape(const CustomOp* op, ShapeInferContext* context) {
  const Api& api = *static_cast<const RegisteredOp*>(op)->api;
  return guarded(api, Op::kName, [&] { infer_map(api, context, Op::kChannels, Op::kSize); });
}

// Valid as long as the library is loaded; one process has one runtime, hence one table.
template <class Op>
const CustomOp* registered(const Api& api, bool infers_shapes) {
  static const RegisteredOp made = [&] {
    RegisteredOp op{};
    op.api = &api;
    op.version = kApiVersion;
    op.name = [](const CustomOp*) { return Op::kName; };
    op.execution_provider = [](const CustomOp*) { return Registration<Op>::provider(); };
    op.input_count = [](const CustomOp*) -> size_t { return Op::kInputs; };
    op.input_type = [](const CustomOp*, size_t index) {
      return Registration<Op>::input_type(index);
    };
    op.input_characteristic = [](const CustomOp*, size_t index) {
      return index < Op::kRequired ? kRequired : kOptional;
    };
    op.input_memory_type = [](const CustomOp*, size_t index) {
      return static_cast<int>(Registration<Op>::memory_type(index));
    };
    op.output_count = [](const CustomOp*) -> size_t { return 1; };
    op.output_type = [](const CustomOp*, size_t) { return Registration<Op>::kOutput; };
    op.output_characteristic = [](const CustomOp*, size_t) { return kRequired; };
    op.variadic_input_min = [](const CustomOp*) { return 1; };
    op.variadic_input_homogeneity = [](const CustomOp*) { return 1; };
    op.variadic_output_min = [](const CustomOp*) { return 1; };
    op.variadic_output_homogeneity = [](const CustomOp*) { return 1; };
    op.create_kernel_v2 = create_kernel<Op>;
    op.compute_v2 = compute_kernel<Op>;
    op.destroy = [](void* kernel) { delete static_cast<Op*>(kernel); };
    op.infer_shape = infers_shapes ? infer_shape<Op> : nullptr;
    op.start_version = [](const CustomOp*) { return 1; };
    op.end_version = [](const CustomOp*) { return 1 << 20; };
    return op;
  }();
  return &made;
}

// The library's operators for CPUs, one function a file.
using CustomOps = std::vector<const CustomOp*>;
CustomOps binary_conv_ops(const Api& api, bool infers_shapes);
CustomOps binary_block_ops(const Api& api, bool infers_shapes);
CustomOps conv_ops(const Api& api, bool infers_shapes);
CustomOps attention_ops(const Api& api, bool infers_shapes);
CustomOps scan_ops(const Api& api, bool infers_shapes);
CustomOps scaled_conv_ops(const Api& api, bool infers_shapes);

}  // namespace bidiff::ort
