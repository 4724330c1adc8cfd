// The library for IPluginRegistry::loadLibrary, trtexec --dynamicPlugins and
// --setPluginsToSerialize, of TensorRT 8.6 and newer: TensorRT asks it for its creators and
// registers them itself. It refuses a library whose creators are registered already, hence this
// library besides that of register_static.cpp.
#include "adaptor.h"

using bidiff::tensorrt::Creator;
using bidiff::tensorrt::creators;

#define EXPORTED extern "C" __attribute__((visibility("default")))

// TensorRT 10 looks up the first, older versions the second.
#if NV_TENSORRT_MAJOR >= 10
EXPORTED Creator* const* getCreators(int32_t& count) {
#else
EXPORTED Creator* const* getPluginCreators(int32_t& count) {
#endif
  return bidiff::tensorrt::guarded<Creator* const*>(nullptr, [&] {
    count = static_cast<int32_t>(creators().size());
    return creators().data();
  });
}

EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  bidiff::tensorrt::set_logger(finder ? finder->findLogger() : nullptr);
}
