#include "driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

namespace bidiff::cuda {

namespace {

constexpr const char* kOtherBackend = "or choose backend onnxruntime, which needs no GPU";

std::string library_name() {
  const char* named = std::getenv("BIDIFF_LIBCUDA");
  return named && *named ? named : "libcuda.so.1";
}

// Why cuInit failed, and what to do.
std::string start_failure(int code) {
  switch (code) {
    case kNoDevice:
      return "the NVIDIA driver reports no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES, " +
             std::string(kOtherBackend);
    case kStubLibrary:
      return library_name() +
             " is the stub library of a CUDA toolkit, not a driver; remove its "
             "folder from LD_LIBRARY_PATH";
    case kNotInitialized:
      return "CUDA cannot be used in a process that was forked after CUDA was started; start "
             "processes with the method spawn";
    case kSystemDriverMismatch:
      return "the NVIDIA driver was updated while its old kernel module is loaded; restart the "
             "machine";
    case kCompatNotSupportedOnDevice:
      return "the CUDA compatibility library in LD_LIBRARY_PATH does not support this GPU; "
             "remove it or update the NVIDIA driver";
  }
  return "the NVIDIA driver does not start (cuInit returned " + std::to_string(code) +
         "); check that nvidia-smi works, " + kOtherBackend;
}

void* open_library(const std::string& name) {
  // Never closed: the driver has threads of its own.
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library) return library;
  const char* reason = dlerror();
  throw Error("the NVIDIA driver cannot be opened (" + std::string(reason ? reason : name.c_str()) +
              "); install it, " + kOtherBackend);
}

// Retried after a failure; success is cached.
std::unique_ptr<const Driver> open_driver() {
  const std::string name = library_name();
  void* library = open_library(name);
  auto found = std::make_unique<Driver>();
  const char* missing = nullptr;
  const auto find = [&](auto* member, const char* symbol, bool required) {
    void* address = dlsym(library, symbol);
    if (!address && required && !missing) missing = symbol;
    std::memcpy(member, &address, sizeof(address));
  };
#define BIDIFF_CUDA_FIND(member, name, parameters) find(&found->member, name, true);
  BIDIFF_CUDA_FUNCTIONS(BIDIFF_CUDA_FIND)
#undef BIDIFF_CUDA_FIND
  find(&found->function_load, "cuFuncLoad", false);
  if (missing) {
    throw Error(name + " has no " + missing +
                ", so it is not an NVIDIA driver, or one older than CUDA "
                "11; install a newer NVIDIA driver");
  }
  found->version = 0;
  if (const int code = found->init(0)) throw Error(start_failure(code));
  found->driver_version(&found->version);
  return found;
}

// What a user can do about a failure of the GPU; follows the error's name.
const char* remedy(int code) {
  switch (code) {
    case kOutOfMemory:
      return "; the GPU's memory is full: close other programs that use it, or make batch or tiles "
             "smaller";
    case kIllegalAddress:
    case kLaunchFailed:
      return "; a kernel read or wrote out of bounds, and this process cannot use the GPU any "
             "more: run it again with BIDIFF_CUDA_PATH=popc and report it";
    case kLaunchTimeout:
      return "; the GPU's watchdog stopped a kernel because it also drives a display: make batch "
             "or tiles smaller";
    case kStreamCaptureUnsupported:
      return "; the stream is being captured into a CUDA graph: run once before capturing";
  }
  return "";
}

}  // namespace

const Driver& driver() {
  static std::mutex mutex;
  static const Driver* opened = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!opened) opened = open_driver().release();
  return *opened;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string describe(int code) {
  const char* name = nullptr;
  const bool known = driver().error_name(code, &name) == kSuccess && name;
  return (known ? name : "an unknown error") + (" (" + std::to_string(code) + ")");
}

void check(int code, const char* what) {
  if (code == kSuccess) return;
  throw Error(std::string(what) + " failed: " + describe(code) + remedy(code));
}

}  // namespace bidiff::cuda
