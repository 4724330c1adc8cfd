// The library that is linked, dlopened, or given to trtexec as --staticPlugins (--plugins before
// 8.6): it registers its creators with TensorRT when it is loaded.
//
// REGISTER_TENSORRT_PLUGIN would register them in the namespace "", which all plugins share.
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
          "bidiff: TensorRT did not register some of this library's plugins; a copy that "
          "was loaded earlier is used instead");
    }
    return all;
  });
}();

}  // namespace
}  // namespace bidiff::tensorrt
