// The entry point that ONNX Runtime looks up by name in a custom-op library.
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "../kernels/select.h"
#include "cuda_node.h"
#include "op.h"

namespace {

using namespace bidiff::ort;

CustomOpDomain* g_domain = nullptr;

// ONNX Runtime before 1.24 dereferences the missing type of an omitted optional input as soon as an
// op has a shape function (1.18 to 1.23 crash, 1.24 does not), hence those get none: they then plan
// memory without the op's output shape, and compute the same.
bool can_infer_shapes(const ApiBase& base) {
  int major = 0, minor = 0;
  return std::sscanf(base.version(), "%d.%d", &major, &minor) == 2 &&
         (major > 1 || (major == 1 && minor >= 24));
}

// Every kernel. Those for CUDA need no GPU to be registered: ONNX Runtime uses them if a session
// has its CUDA provider.
CustomOps operators(const Api& api, bool infers_shapes) {
  CustomOps ops;
  add_cuda_layers(api, infers_shapes, &ops);
  add_cuda_blocks(api, infers_shapes, &ops);
  std::set<std::string> taken;  // by CUDA's operators that tests run on the CPU
  if (cuda_is_on_cpu()) {
    for (const CustomOp* op : ops) taken.insert(op->name(op));
  }
  for (const auto make :
       {binary_conv_ops, binary_block_ops, conv_ops, attention_ops, scan_ops, scaled_conv_ops}) {
    for (const CustomOp* op : make(api, infers_shapes)) {
      if (!taken.count(op->name(op))) ops.push_back(op);
    }
  }
  return ops;
}

// The domain must outlive every session, hence it is made once and never released.
Status* domain(const Api& api, bool infers_shapes) {
  static Status* const failed = [&]() -> Status* {
    if (Status* status = api.create_domain("bidiff", &g_domain)) return status;
    for (const CustomOp* op : operators(api, infers_shapes)) {
      if (Status* status = api.add_op(g_domain, op)) return status;
    }
    return nullptr;
  }();
  return failed;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(SessionOptions* options,
                                                                            const ApiBase* base) {
  const Api* api = base->get_api(kApiVersion);
  if (!api) {
    const std::string sentence =
        "the bidiff op library needs ONNX Runtime 1.18 or newer, this is " +
        std::string(base->version());
    const Api* oldest = base->get_api(1);  // an old table has the same slots
    return oldest ? oldest->create_status(kFail, sentence.c_str()) : nullptr;
  }
  std::string error;
  if (!bidiff::selected_kernel(&error)) return api->create_status(kInvalidArgument, error.c_str());
  try {
    cuda_provider();
  } catch (const std::exception& reason) {  // BIDIFF_CUDA_ON_CPU with a real GPU
    return api->create_status(kInvalidArgument, reason.what());
  }
  if (Status* status = domain(*api, can_infer_shapes(*base))) return status;
  return api->add_domain(options, g_domain);
}
