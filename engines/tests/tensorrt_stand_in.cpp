// What a plugin library needs of libnvinfer.so, so that it can be linked and loaded without one: a
// registry that stores creators, and a logger that stores messages. Compiled with the headers of
// the TensorRT that it replaces; tools/tensorrt_headers.py.
#include "tensorrt_stand_in.h"

#include <cstring>
#include <mutex>
#include <vector>

namespace {

#if NV_TENSORRT_MAJOR >= 10
using Creator = nvinfer1::IPluginCreatorInterface;
#else
using Creator = nvinfer1::IPluginCreator;
#endif

std::mutex mutex;
std::vector<std::pair<Creator*, std::string>>& registered() {
  static auto* all = new std::vector<std::pair<Creator*, std::string>>;
  return *all;
}
std::string& messages() {
  static auto* all = new std::string;
  return *all;
}

std::string name_of(Creator* creator) {
#if NV_TENSORRT_MAJOR >= 10
  if (!std::strcmp(creator->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE")) {
    return static_cast<nvinfer1::IPluginCreatorV3One*>(creator)->getPluginName();
  }
  return static_cast<nvinfer1::IPluginCreator*>(creator)->getPluginName();
#else
  return creator->getPluginName();
#endif
}

Creator* find(const std::string& name, const std::string& space) {
  for (const auto& entry : registered()) {
    if (name_of(entry.first) == name && entry.second == space) return entry.first;
  }
  return nullptr;
}

bool enter(Creator& creator, const char* space) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (find(name_of(&creator), space)) return false;
  registered().push_back({&creator, space});
  return true;
}

// No method is marked `override`: versions differ in which they have.
#pragma GCC diagnostic ignored "-Wsuggest-override"
class Registry : public nvinfer1::IPluginRegistry {
 public:
#if NV_TENSORRT_MAJOR < 11
  bool registerCreator(nvinfer1::IPluginCreator& creator, const char* space) noexcept {
    creator.setPluginNamespace(space);
    return enter(creator, space);
  }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept { return nullptr; }
  nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept {
    return nullptr;
  }
  bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept { return false; }
#endif
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept { return nullptr; }
  bool isParentSearchEnabled() const { return false; }
  void setParentSearchEnabled(bool) {}
  void* loadLibrary(const char*) noexcept { return nullptr; }
  void deregisterLibrary(void*) noexcept {}
#if NV_TENSORRT_MAJOR >= 10
  bool registerCreator(Creator& creator, const char* space) noexcept {
    return enter(creator, space);
  }
  Creator* const* getAllCreators(int32_t*) const noexcept { return nullptr; }
  Creator* const* getAllCreatorsRecursive(int32_t*) noexcept { return nullptr; }
  Creator* getCreator(const char*, const char*, const char*) noexcept { return nullptr; }
  bool deregisterCreator(const Creator&) noexcept { return false; }
  nvinfer1::IPluginResource* acquirePluginResource(const char*,
                                                   nvinfer1::IPluginResource*) noexcept {
    return nullptr;
  }
  int32_t releasePluginResource(const char*) noexcept { return 0; }
#endif
};

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity, const char* message) noexcept override {
    const std::lock_guard<std::mutex> lock(mutex);
    messages() += std::string(message) + "\n";
  }
};

}  // namespace

extern "C" TENSORRTAPI nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  static auto* registry = new Registry;
  return registry;
}
extern "C" TENSORRTAPI nvinfer1::ILogger* getLogger() noexcept {
  static auto* logger = new Logger;
  return logger;
}

void* stand_in_creator(const char* name, const char* space) {
  const std::lock_guard<std::mutex> lock(mutex);
  return find(name, space);
}
std::string stand_in_messages() {
  const std::lock_guard<std::mutex> lock(mutex);
  std::string all;
  all.swap(messages());
  return all;
}
