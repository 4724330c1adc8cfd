// What the stand-in for libnvinfer.so reports to the tests.
#pragma once

#include <NvInferRuntime.h>

#include <string>

// The registered creator, an IPluginCreator, or IPluginCreatorInterface from TensorRT 10 on; or
// null.
__attribute__((visibility("default"))) void* stand_in_creator(const char* name, const char* space);
// Messages logged since the last call, one per line.
__attribute__((visibility("default"))) std::string stand_in_messages();
