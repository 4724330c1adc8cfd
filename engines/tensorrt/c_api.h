// Functions of the plugin libraries for ctypes, besides those that TensorRT calls: they prepare
// words for a graph, and report what a library was built for.
//
// As in ../c_api.h, what can fail returns 0 on success, else 1 and one sentence in `error`.
#pragma once

#include <cstddef>
#include <cstdint>

#define BIDIFF_PLUGIN_PUBLIC extern "C" __attribute__((visibility("default")))

// Incremented when a function here changes.
constexpr int kPluginAbiVersion = 1;
BIDIFF_PLUGIN_PUBLIC int bidiff_tensorrt_abi_version();
// "10.16.0" of the headers, "IPluginV3" or "IPluginV2DynamicExt", and the architectures whose
// machine code is embedded, "75 80" or "".
BIDIFF_PLUGIN_PUBLIC const char* bidiff_tensorrt_version();
BIDIFF_PLUGIN_PUBLIC const char* bidiff_tensorrt_interface();
BIDIFF_PLUGIN_PUBLIC const char* bidiff_tensorrt_embedded();

// The value of attribute `layout` for words that this library has prepared.
BIDIFF_PLUGIN_PUBLIC int32_t bidiff_tensorrt_layout();
// Number of int32 values that words (Cout, k, k, ceil(Cin/32)) take when prepared, and those
// values.
BIDIFF_PLUGIN_PUBLIC int bidiff_tensorrt_prepared_count(int64_t out_channels, int64_t in_channels,
                                                        int64_t k, int64_t* count, char* error,
                                                        size_t error_size);
BIDIFF_PLUGIN_PUBLIC int bidiff_tensorrt_prepare(int64_t out_channels, int64_t in_channels,
                                                 int64_t k, const int32_t* words, int32_t* prepared,
                                                 char* error, size_t error_size);

// NVRTC libraries to try before those that the loader finds, one per line. For the whole process.
BIDIFF_PLUGIN_PUBLIC int bidiff_tensorrt_set_nvrtc(const char* files, char* error,
                                                   size_t error_size);
