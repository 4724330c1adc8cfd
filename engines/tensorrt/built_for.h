// What a plugin library was built for.
#pragma once

namespace bidiff::tensorrt {

// "10.16.0" of the headers.
const char* headers_version();
// "IPluginV3" or "IPluginV2DynamicExt".
const char* interface_name();

}  // namespace bidiff::tensorrt
