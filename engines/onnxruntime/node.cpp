#include "node.h"

#include <memory>

namespace bidiff::ort {

void check(Status* status) {
  if (status) throw Refusal{status};
}

void refuse_unless_empty(const Api& api, const std::string& sentence) {
  if (!sentence.empty()) {
    throw Refusal{api.create_status(kInvalidArgument, sentence.c_str())};
  }
}

Dims read_dims(const Api& api, const TensorInfo* info) {
  size_t count = 0;
  check(api.dimension_count(info, &count));
  Dims dims(count);
  if (count) check(api.dimensions(info, dims.data(), count));
  return dims;
}

Tensor read_tensor(const Api& api, const Value* value) {
  TensorInfo* raw = nullptr;
  check(api.tensor_info(value, &raw));
  const auto release = [&api](TensorInfo* info) { api.release_tensor_info(info); };
  const std::unique_ptr<TensorInfo, decltype(release)> info(raw, release);
  void* data = nullptr;
  check(api.tensor_data(const_cast<Value*>(value), &data));
  return {read_dims(api, info.get()), data};
}

Call::Call(const Api& api, KernelContext* context, const char* op)
    : api_(api), context_(context), op_(op) {
  check(api.input_count(context, &count_));
}

Tensor Call::input(size_t index) const {
  const Value* value = nullptr;
  if (index < count_) check(api_.input(context_, index, &value));
  return value ? read_tensor(api_, value) : Tensor{};
}

float* Call::output(const Dims& dims) const {
  void* data = output_data(dims);
  advise_huge_pages(data, static_cast<size_t>(element_count(dims)) * sizeof(float));
  return static_cast<float*>(data);
}

void* Call::output_data(const Dims& dims) const {
  Value* output = nullptr;
  check(api_.output(context_, 0, dims.data(), dims.size(), &output));
  void* data = nullptr;
  check(api_.tensor_data(output, &data));
  return data;
}

void* Call::gpu_stream() const {
  void* stream = nullptr;
  check(api_.gpu_stream(context_, &stream));
  return stream;
}

void Call::run(void* host, void (*task)(void*, size_t), size_t count, void* user) {
  Call& call = *static_cast<Call*>(host);
  Status* status = call.api_.parallel_for(call.context_, task, count, 0, user);
  if (!status) return;
  if (call.status_) {
    call.api_.release_status(status);
  } else {
    call.status_ = status;
  }
}

void Call::finish(bool done) const {
  check(status_);
  if (done) return;
  const std::string sentence =
      "bidiff::" + std::string(op_) + ": not enough memory for the kernel's scratch buffers";
  throw Refusal{api_.create_status(kFail, sentence.c_str())};
}

void Call::require(bool fits, const std::string& sentence) const {
  if (!fits) refuse_unless_empty(api_, "bidiff::" + std::string(op_) + ": " + sentence);
}

MapShape Call::map(const Tensor& tensor, const char* name) const {
  const Dims& dims = tensor.dims;
  bool fits = dims.size() == 4;
  for (size_t axis = 0; fits && axis < 4; ++axis) fits = dims[axis] >= 1;
  require(fits, std::string(name) + " must have shape (N, C, H, W) with no dimension 0, not " +
                    text(dims));
  return {dims[0], dims[1], dims[2], dims[3]};
}

const float* Call::vector(const Tensor& tensor, const char* name, int64_t length,
                          bool or_one) const {
  const bool fits =
      (tensor.dims.size() == 1 && tensor.dims[0] == length) || (or_one && tensor.is_scalar());
  require(fits, std::string(name) + " must have shape (" + std::to_string(length) + ")" +
                    (or_one ? " or one element" : "") + ", not " + text(tensor.dims));
  return tensor.floats();
}

Tensor constant_input(const Api& api, const KernelInfo* info, size_t index) {
  int is_constant = 0;
  const Value* value = nullptr;
  check(api.constant_input(info, index, &is_constant, &value));
  return is_constant && value ? read_tensor(api, value) : Tensor{};
}

Dims input_dims(const Api& api, const KernelInfo* info, size_t index) {
  TypeInfo* raw = nullptr;
  check(api.kernel_input_type(info, index, &raw));
  const auto release = [&api](TypeInfo* type) { api.release_type_info(type); };
  const std::unique_ptr<TypeInfo, decltype(release)> type(raw, release);
  const TensorInfo* tensor = nullptr;
  check(api.as_tensor_info(type.get(), &tensor));
  return tensor ? read_dims(api, tensor) : Dims{};
}

float float_attribute(const Api& api, const KernelInfo* info, const char* name) {
  float value = 0;
  check(api.attribute_float(info, name, &value));
  return value;
}

int64_t integer_attribute(const Api& api, const KernelInfo* info, const char* name) {
  int64_t value = 0;
  check(api.attribute_int64(info, name, &value));
  return value;
}

std::string text_attribute(const Api& api, const KernelInfo* info, const char* name) {
  size_t size = 0;
  check(api.attribute_string(info, name, nullptr, &size));
  std::string value(size, '\0');
  check(api.attribute_string(info, name, value.data(), &size));
  value.resize(size ? size - 1 : 0);  // size counts the terminating zero
  return value;
}

}  // namespace bidiff::ort
