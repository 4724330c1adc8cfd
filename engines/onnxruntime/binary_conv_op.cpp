#include "binary_conv_op.h"

#include <atomic>
#include <exception>
#include <memory>
#include <string>

#include "../kernels/check.h"
#include "../kernels/packed_weights.h"
#include "../kernels/select.h"

namespace bidiff::ort {
namespace {

enum Input : size_t { kX, kWords, kAlpha, kThreshold, kRprelu, kResidual, kTime, kInputs };

// Carries a status of ONNX Runtime, or a sentence of ours, to the C boundary.
struct Refusal {
  Status* status;
};

void check(Status* status) {
  if (status) throw Refusal{status};
}

void refuse_unless_empty(const Api& api, const std::string& sentence) {
  if (!sentence.empty()) {
    throw Refusal{api.create_status(kInvalidArgument, sentence.c_str())};
  }
}

template <class Body>
Status* guarded(const Api& api, Body body) {
  try {
    body();
    return nullptr;
  } catch (const Refusal& refusal) {
    return refusal.status;
  } catch (const std::exception& error) {
    return api.create_status(kFail, (std::string("bidiff::BinaryConv: ") + error.what()).c_str());
  }
}

Dims read_dims(const Api& api, const TensorInfo* info) {
  size_t count = 0;
  check(api.dimension_count(info, &count));
  Dims dims(count);
  if (count) check(api.dimensions(info, dims.data(), count));
  return dims;
}

struct Tensor {
  Dims dims;
  const void* data;
};

Tensor read_tensor(const Api& api, const Value* value) {
  TensorInfo* raw = nullptr;
  check(api.tensor_info(value, &raw));
  const auto release = [&api](TensorInfo* info) { api.release_tensor_info(info); };
  const std::unique_ptr<TensorInfo, decltype(release)> info(raw, release);
  void* data = nullptr;
  check(api.tensor_data(const_cast<Value*>(value), &data));
  return {read_dims(api, info.get()), data};
}

// Null if the optional input was left out.
const Value* read_input(const Api& api, const KernelContext* context, size_t count, size_t index) {
  const Value* value = nullptr;
  if (index < count) check(api.input(context, index, &value));
  return value;
}

struct Host {
  const Api* api;
  const KernelContext* context;
  Status* status;
};

void parallel_run(void* host, void (*task)(void*, size_t), size_t count, void* user) {
  Host& target = *static_cast<Host*>(host);
  Status* status = target.api->parallel_for(target.context, task, count, 0, user);
  if (status) target.status = status;
}

class BinaryConv {
 public:
  BinaryConv(const Api& api, const KernelInfo* info, const Kernel& kernel)
      : api_(api), kernel_(kernel) {
    int is_constant = 0;
    const Value* value = nullptr;
    check(api.constant_input(info, kWords, &is_constant, &value));
    words_are_constant_ = is_constant && value;
    if (words_are_constant_) pack_early(info, read_tensor(api, value));
  }

  Status* compute(KernelContext* context) {
    return guarded(api_, [&] { compute_checked(context); });
  }

 private:
  void compute_checked(KernelContext* context) {
    size_t count = 0;
    check(api_.input_count(context, &count));
    const Tensor x = read_tensor(api_, read_input(api_, context, count, kX));
    const Tensor words = read_tensor(api_, read_input(api_, context, count, kWords));
    Problem problem{};
    refuse_unless_empty(api_, read_shape(x.dims, words.dims, &problem.shape));
    const Shape& shape = problem.shape;
    problem.x = static_cast<const float*>(x.data);

    const Tensor alpha = read_tensor(api_, read_input(api_, context, count, kAlpha));
    refuse_unless_empty(api_, check_vector("alpha", alpha.dims, shape.out_channels, false));
    problem.alpha = static_cast<const float*>(alpha.data);
    if (const Value* value = read_input(api_, context, count, kThreshold)) {
      const Tensor threshold = read_tensor(api_, value);
      refuse_unless_empty(api_, check_vector("threshold", threshold.dims, shape.in_channels, false));
      problem.threshold = static_cast<const float*>(threshold.data);
    }
    if (const Value* value = read_input(api_, context, count, kRprelu)) {
      const Tensor rprelu = read_tensor(api_, value);
      refuse_unless_empty(api_, check_rprelu(rprelu.dims, shape));
      problem.rprelu = static_cast<const float*>(rprelu.data);
    }
    if (const Value* value = read_input(api_, context, count, kResidual)) {
      const Tensor residual = read_tensor(api_, value);
      refuse_unless_empty(api_, check_residual(residual.dims, shape));
      problem.residual = static_cast<const float*>(residual.data);
      problem.residual_is_scalar = element_count(residual.dims) == 1;
    }
    if (const Value* value = read_input(api_, context, count, kTime)) {
      const Tensor time = read_tensor(api_, value);
      refuse_unless_empty(api_, check_vector("time", time.dims, shape.out_channels, true));
      problem.time = static_cast<const float*>(time.data);
      problem.time_is_scalar = element_count(time.dims) == 1;
    }

    const int64_t dims[] = {shape.batch, shape.out_channels, shape.height, shape.width};
    Value* output = nullptr;
    check(api_.output(context, 0, dims, 4, &output));
    void* y = nullptr;
    check(api_.tensor_data(output, &y));
    problem.y = static_cast<float*>(y);

    const int32_t* bits = static_cast<const int32_t*>(words.data);
    const std::shared_ptr<const void> packed = words_are_constant_
                                                   ? packed_.get(kernel_, shape, bits)
                                                   : pack_weights(kernel_, shape, bits);
    Host host{&api_, context, nullptr};
    const Parallel parallel{&host, parallel_run};
    const bool done = packed && kernel_.run(problem, packed.get(), parallel);
    check(host.status);
    if (!done) {
      throw Refusal{api_.create_status(
          kFail, "bidiff::BinaryConv: not enough memory for the kernel's scratch buffers")};
    }
  }

  // Constant words are packed while the session is created, if the type of x tells Cin by then.
  void pack_early(const KernelInfo* info, const Tensor& words) {
    TypeInfo* raw = nullptr;
    check(api_.kernel_input_type(info, kX, &raw));
    const auto release = [this](TypeInfo* type) { api_.release_type_info(type); };
    const std::unique_ptr<TypeInfo, decltype(release)> type(raw, release);
    const TensorInfo* tensor = nullptr;
    check(api_.as_tensor_info(type.get(), &tensor));
    if (!tensor) return;
    Dims dims = read_dims(api_, tensor);
    if (dims.size() != 4 || dims[1] < 1) return;
    Shape shape{};
    refuse_unless_empty(api_, read_shape({1, dims[1], 1, 1}, words.dims, &shape));
    packed_.get(kernel_, shape, static_cast<const int32_t*>(words.data));
  }

  const Api& api_;
  const Kernel& kernel_;
  bool words_are_constant_ = false;
  PackedWeights packed_;
};

Status* create_kernel(const CustomOp*, const Api* api, const KernelInfo* info, void** out) {
  return guarded(*api, [&] {
    std::string error;
    const Kernel* kernel = selected_kernel(&error);
    refuse_unless_empty(*api, error);
    *out = new BinaryConv(*api, info, *kernel);
  });
}

// Shape inference is given no OrtApi, so the op itself carries the one it was registered with; a
// runtime hands out the same table for every request.
struct BinaryConvOp : CustomOp {
  const Api* api;
};

Status* infer_shape(const CustomOp* op, ShapeInferContext* context) {
  const Api& api = *static_cast<const BinaryConvOp*>(op)->api;
  return guarded(api, [&] {
    TensorInfo *x = nullptr, *words = nullptr;
    check(api.shape_input(context, kX, &x));
    check(api.shape_input(context, kWords, &words));
    Dims dims = read_dims(api, x);
    const Dims word_dims = read_dims(api, words);
    if (dims.size() != 4 || word_dims.size() != 4) return;
    const char* names[4] = {"", "", "", ""};
    check(api.symbolic_dimensions(x, names, 4));
    dims[1] = word_dims[0];
    names[1] = "";
    // A dimension that is unknown and nameless would be set to the number -1; a name of its own
    // says "unknown" instead, and equal to no other.
    static std::atomic<uint64_t> unknown{0};
    std::string fresh[4];
    for (int axis = 0; axis < 4; ++axis) {
      if (dims[axis] >= 0 || (names[axis] != nullptr && *names[axis] != 0)) continue;
      fresh[axis] = "bidiff_unknown_" + std::to_string(unknown++);
      names[axis] = fresh[axis].c_str();
    }
    TensorInfo* raw = nullptr;
    check(api.create_tensor_info(&raw));
    const auto release = [&api](TensorInfo* info) { api.release_tensor_info(info); };
    const std::unique_ptr<TensorInfo, decltype(release)> y(raw, release);
    check(api.set_element_type(y.get(), kFloat));
    check(api.set_dimensions(y.get(), dims.data(), 4));
    check(api.set_symbolic_dimensions(y.get(), names, 4));
    check(api.set_shape_output(context, 0, y.get()));
  });
}

Status* compute(void* kernel, KernelContext* context) {
  return static_cast<BinaryConv*>(kernel)->compute(context);
}

BinaryConvOp make_op(const Api& api, bool infers_shapes) {
  BinaryConvOp op{};
  op.api = &api;
  op.version = kApiVersion;
  op.name = [](const CustomOp*) { return "BinaryConv"; };
  op.execution_provider = [](const CustomOp*) { return "CPUExecutionProvider"; };
  op.input_count = [](const CustomOp*) -> size_t { return kInputs; };
  op.input_type = [](const CustomOp*, size_t index) { return index == kWords ? kInt32 : kFloat; };
  op.input_characteristic = [](const CustomOp*, size_t index) {
    return index < kThreshold ? kRequired : kOptional;
  };
  op.input_memory_type = [](const CustomOp*, size_t) { return 0; };
  op.output_count = [](const CustomOp*) -> size_t { return 1; };
  op.output_type = [](const CustomOp*, size_t) { return kFloat; };
  op.output_characteristic = [](const CustomOp*, size_t) { return kRequired; };
  op.variadic_input_min = [](const CustomOp*) { return 1; };
  op.variadic_input_homogeneity = [](const CustomOp*) { return 1; };
  op.variadic_output_min = [](const CustomOp*) { return 1; };
  op.variadic_output_homogeneity = [](const CustomOp*) { return 1; };
  op.create_kernel_v2 = create_kernel;
  op.compute_v2 = compute;
  op.destroy = [](void* kernel) { delete static_cast<BinaryConv*>(kernel); };
  op.infer_shape = infers_shapes ? infer_shape : nullptr;
  op.start_version = [](const CustomOp*) { return 1; };
  op.end_version = [](const CustomOp*) { return 1; };
  return op;
}

}  // namespace

const CustomOp* binary_conv_op(const Api& api, bool infers_shapes) {
  static const BinaryConvOp op = make_op(api, infers_shapes);
  return &op;
}

}  // namespace bidiff::ort
