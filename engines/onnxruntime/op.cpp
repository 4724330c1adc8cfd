#include "op.h"

namespace bidiff::ort {

void infer_map(const Api& api, ShapeInferContext* context, int channels, Size size) {
  TensorInfo* x = nullptr;
  check(api.shape_input(context, 0, &x));
  Dims dims = read_dims(api, x);
  if (dims.size() != 4) return;
  const char* names[4] = {"", "", "", ""};
  check(api.symbolic_dimensions(x, names, 4));
  if (channels >= 0) {
    TensorInfo* weights = nullptr;
    check(api.shape_input(context, static_cast<size_t>(channels), &weights));
    const Dims weight_dims = read_dims(api, weights);
    if (weight_dims.empty()) return;
    dims[1] = weight_dims[0];
    names[1] = "";
  } else if (channels != kChannelsOfX) {
    if (dims[1] > 0) dims[1] = channels == kHalfOfX ? dims[1] / 2 : dims[1] * 2;
    names[1] = "";
  }
  for (int axis = 2; axis < 4 && size != Size::kSame; ++axis) {
    if (dims[axis] > 0) dims[axis] = size == Size::kDouble ? dims[axis] * 2 : dims[axis] / 2;
    names[axis] = "";
  }
  // An unknown dimension without a name would be set to -1; a unique name marks it as unknown, and
  // as different from all others.
  static std::atomic<uint64_t> unknown{0};
  std::string fresh[4];
  for (int axis = 0; axis < 4; ++axis) {
    if (dims[axis] >= 0 || (names[axis] != nullptr && *names[axis] != 0)) continue;
    fresh[axis] = "bidiff_unknown_" + std::to_string(unknown++);
    names[axis] = fresh[axis].c_str();
  }
  TensorInfo* raw = nullptr;
  ElementType element = kFloat;
  check(api.element_type(x, &element));
  check(api.create_tensor_info(&raw));
  const auto release = [&api](TensorInfo* info) { api.release_tensor_info(info); };
  const std::unique_ptr<TensorInfo, decltype(release)> y(raw, release);
  check(api.set_element_type(y.get(), element));
  check(api.set_dimensions(y.get(), dims.data(), 4));
  check(api.set_symbolic_dimensions(y.get(), names, 4));
  check(api.set_shape_output(context, 0, y.get()));
}

}  // namespace bidiff::ort
