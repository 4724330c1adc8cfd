// The entry point that ONNX Runtime looks up by name in a custom-op library.
#include <cstdio>
#include <string>

#include "../kernels/select.h"
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

// The domain must outlive every session, hence it is made once and never released.
Status* domain(const Api& api, bool infers_shapes) {
  static Status* const failed = [&]() -> Status* {
    if (Status* status = api.create_domain("bidiff", &g_domain)) return status;
    for (const auto op : {binary_conv_op, norm_binary_conv_op, binary_fusion_op, binary_down_op,
                          binary_up_op, group_norm_swish_op, conv3x3_op, norm_conv_op,
                          pair_conv_op, attention_op}) {
      if (Status* status = api.add_op(g_domain, op(api, infers_shapes))) return status;
    }
    return nullptr;
  }();
  return failed;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(
    SessionOptions* options, const ApiBase* base) {
  const Api* api = base->get_api(kApiVersion);
  if (!api) {
    const std::string sentence = std::string("the bidiff op library needs ONNX Runtime 1.18 or "
                                             "newer, this is ") + base->version();
    const Api* oldest = base->get_api(1);  // every slot of an old table is at its place in it
    return oldest ? oldest->create_status(kFail, sentence.c_str()) : nullptr;
  }
  std::string error;
  if (!bidiff::selected_kernel(&error)) return api->create_status(kInvalidArgument, error.c_str());
  if (Status* status = domain(*api, can_infer_shapes(*base))) return status;
  return api->add_domain(options, g_domain);
}
