// The entry point that ONNX Runtime looks up by name in a custom-op library.
#include <string>

#include "../kernels/select.h"
#include "binary_conv_op.h"

namespace {

using namespace bidiff::ort;

CustomOpDomain* g_domain = nullptr;

// The domain must outlive every session, hence it is made once and never released.
Status* domain(const Api& api) {
  static Status* const failed = [&api] {
    if (Status* status = api.create_domain("bidiff", &g_domain)) return status;
    return api.add_op(g_domain, binary_conv_op(api));
  }();
  return failed;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(
    SessionOptions* options, const ApiBase* base) {
  const Api* api = base->get_api(kApiVersion);
  if (!api) {
    // There is no table to make a status with; ONNX Runtime has printed why by now. Without the
    // domain, creating a session with the op fails in ONNX Runtime's own words.
    return nullptr;
  }
  std::string error;
  if (!bidiff::selected_kernel(&error)) return api->create_status(kInvalidArgument, error.c_str());
  if (Status* status = domain(*api)) return status;
  return api->add_domain(options, g_domain);
}
