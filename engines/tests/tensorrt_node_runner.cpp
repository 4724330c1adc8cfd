// Single nodes of the TensorRT plugin without TensorRT, for the stand-in of its Python module
// (tests/stand_ins/tensorrt). With ../tensorrt/c_api.cpp it is the library that tests use as the
// plugin, so that the words they prepare are the kernels' own; BIDIFF_STAND_IN_PLUGIN says for
// which TensorRT it was built.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "../tensorrt/built_for.h"
#include "../tensorrt/plugin_core.h"

#define PUBLIC extern "C" __attribute__((visibility("default")))

namespace bidiff::tensorrt {

const char* headers_version() {
  const char* version = std::getenv("BIDIFF_STAND_IN_PLUGIN");
  return version ? version : "10.3.0";
}
const char* interface_name() {
  return std::atoi(headers_version()) < 10 ? "IPluginV2DynamicExt" : "IPluginV3";
}

}  // namespace bidiff::tensorrt

namespace {

using namespace bidiff::tensorrt;

// As in tests/stand_ins/tensorrt/nodes.py. `type`: 0 float32, 1 float16, 2 int32.
struct RunnerTensor {
  int64_t dims[8];
  int32_t rank, type;
};

Tensor read(const RunnerTensor& from) {
  Tensor made{{}, Type::kOther, true};
  made.dims.assign(from.dims, from.dims + from.rank);
  if (from.type >= 0 && from.type < 3) made.type = static_cast<Type>(from.type);
  return made;
}
std::vector<Tensor> read(const RunnerTensor* from, int count) {
  std::vector<Tensor> made;
  for (int i = 0; i < count; ++i) made.push_back(read(from[i]));
  return made;
}

template <class Body>
int guarded(char* error, size_t error_size, Body body) noexcept {
  try {
    body();
    return 0;
  } catch (const std::exception& failure) {
    std::snprintf(error, error_size, "%s", failure.what());
  }
  return 1;
}

}  // namespace

// 0 on success, else 1 and one sentence, for all that follows.
PUBLIC int bidiff_runner_create(const char* op, const int64_t* attributes, void** node, char* error,
                                size_t error_size) {
  return guarded(error, error_size, [&] {
    *node = new PluginCore(find_operator(op),
                           {attributes[0], attributes[1], attributes[2], attributes[3]});
  });
}

PUBLIC void bidiff_runner_destroy(void* node) { delete static_cast<PluginCore*>(node); }

// Agrees on types and fixes the inputs, as an engine's builder does, then reads the node back from
// its state in an engine. The last of `tensors` is the output.
PUBLIC int bidiff_runner_configure(void* node, const RunnerTensor* tensors, int inputs, char* error,
                                   size_t error_size) {
  return guarded(error, error_size, [&] {
    auto* core = static_cast<PluginCore*>(node);
    const std::vector<Tensor> all = read(tensors, inputs + 1);
    for (int i = 0; i <= inputs; ++i) {
      if (core->supports(i, all.data(), inputs, 1)) continue;
      throw std::runtime_error(std::string(core->type().name) + ": tensor " + std::to_string(i) +
                               " has a type that is not supported there");
    }
    core->configure(all.data(), inputs);
    const std::vector<int32_t> state = core->serialise();
    *core = PluginCore::deserialise(core->type(), state.data(), state.size() * sizeof(int32_t));
  });
}

// Dimensions of the output, `dims` of 4, before or after it is configured.
PUBLIC int bidiff_runner_output(void* node, const RunnerTensor* tensors, int inputs, int64_t* dims,
                                char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    const auto* core = static_cast<const PluginCore*>(node);
    for (int axis = 0; axis < kOutputRank; ++axis) {
      const Extent extent = core->output_extent(inputs, axis);
      const RunnerTensor& from = tensors[extent.input];
      if (extent.axis >= from.rank) throw std::runtime_error("an input has too few dimensions");
      dims[axis] = from.dims[extent.axis] * extent.multiply / extent.divide;
    }
  });
}

PUBLIC int bidiff_runner_workspace(void* node, const RunnerTensor* tensors, int inputs,
                                   uint64_t* bytes, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    *bytes =
        static_cast<const PluginCore*>(node)->workspace_bytes(read(tensors, inputs).data(), inputs);
  });
}

PUBLIC int bidiff_runner_load(void* node, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { static_cast<const PluginCore*>(node)->load(); });
}

PUBLIC int bidiff_runner_enqueue(void* node, const RunnerTensor* tensors, int inputs,
                                 const void* const* pointers, void* y, void* workspace,
                                 void* stream, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    static_cast<const PluginCore*>(node)->enqueue(read(tensors, inputs).data(), pointers, y,
                                                  workspace,
                                                  static_cast<bidiff::cuda::Stream>(stream));
  });
}
