// How cuda-python and the CUDA runtime find the driver's functions: by the name without a version,
// and the version of CUDA whose headers they were compiled with.
#include <dlfcn.h>

#include <cstring>
#include <string>

#include "../../cuda/driver.h"
#include "state.h"

using namespace bidiff::cuda;

#define EMULATED extern "C" __attribute__((visibility("default"))) int

namespace {

void* find(const std::string& name) {
  static void* self = [] {
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(&find), &info);
    return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  }();
  void* found = self ? dlsym(self, name.c_str()) : nullptr;
  // Only this library's own: a lookup by handle continues in its dependencies.
  Dl_info here{}, there{};
  if (!found || !dladdr(found, &there) || !dladdr(reinterpret_cast<void*>(&find), &here)) {
    return nullptr;
  }
  return there.dli_fbase == here.dli_fbase ? found : nullptr;
}

}  // namespace

EMULATED cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
  // Signatures are those of CUDA 12, one for each function.
  const std::string name = symbol;
  *function = nullptr;
  for (const char* suffix : {"_v2", "", "WithFlags"}) {
    if ((*function = find(name + suffix))) break;
  }
  if (status) *status = *function ? 0 : 1;  // 1: not found
  return *function ? kSuccess : kNotFound;
}
