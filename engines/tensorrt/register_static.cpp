// The library that is linked, dlopened, or given to trtexec as --staticPlugins (--plugins before
// 8.6): it enters its creators into TensorRT's registry by being loaded.
//
// REGISTER_TENSORRT_PLUGIN would register them in the namespace "", where names are everyone's.
#include "adaptor.h"

namespace bidiff::tensorrt {
namespace {

const bool registered = [] {
  return guarded(false, [] {
    bool all = true;
    for (Creator* creator : creators()) {
      all = getPluginRegistry()->registerCreator(*creator, kNamespace) && all;
    }
    if (!all) {
      log(nvinfer1::ILogger::Severity::kWARNING,
          "bidiff: some of this library's plugins were registered before, by another copy of it, "
          "and are used from there");
    }
    return all;
  });
}();

}  // namespace
}  // namespace bidiff::tensorrt
