// The library that is linked, dlopened, or given to trtexec as --staticPlugins (--plugins before
// 8.6): it enters its creators into TensorRT's registry by being loaded.
//
// REGISTER_TENSORRT_PLUGIN would register them in the namespace "", where names are everyone's.
#include "adaptor.h"

namespace bidiff::tensorrt {
namespace {

const bool registered = [] {
  return guarded(false, [] {
    nvinfer1::IPluginRegistry* registry = getPluginRegistry();
    bool all = registry != nullptr;
    for (Creator* creator : creators()) {
      all = registry && registry->registerCreator(*creator, kNamespace) && all;
    }
    if (!all) {
      log(nvinfer1::ILogger::Severity::kWARNING,
          "bidiff: TensorRT did not register some of this library's plugins; another copy of it "
          "was loaded before, and is used instead");
    }
    return all;
  });
}();

}  // namespace
}  // namespace bidiff::tensorrt
