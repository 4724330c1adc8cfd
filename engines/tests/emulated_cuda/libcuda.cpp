// The driver functions that driver.h names, and others that bindings look up, for GPUs that are
// this CPU: streams run immediately, and kernels are those of kernel_table.h. They check what a
// real driver and compute-sanitizer check. Here: devices, contexts, modules and launches.
#include "libcuda.h"

#include <csignal>
#include <cstdio>
#include <cstring>
#include <vector>

#include "images.h"
#include "kernel_table.h"

namespace bidiff::cuda {

struct ModuleState {
  int architecture;
  emulated::Image image;
};
struct FunctionState {
  const emulated::Kernel* kernel;
  int architecture;
  int most_shared;
};

}  // namespace bidiff::cuda

using namespace bidiff::cuda;
using namespace bidiff::cuda::emulated;

namespace {

constexpr int kDefaultShared = 48 << 10;
const char* running = "";  // kernel

bool exists(int device) { return device >= 0 && device < static_cast<int>(gpus().size()); }

// Only async-signal-safe functions belong here, but the process ends anyway, and the report is
// worth it.
void on_fault(int number, siginfo_t* info, void*) {
  std::fprintf(stderr, "emulated GPU: %s touched %s\n", running,
               describe_address(reinterpret_cast<uint64_t>(info->si_addr)).c_str());
  signal(number, SIG_DFL);
  raise(number);
}

// Turns an access to forbidden memory into a report while the object lives.
class FaultReport {
 public:
  explicit FaultReport(const char* kernel) {
    running = kernel;
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_);
  }
  ~FaultReport() { sigaction(SIGSEGV, &before_, nullptr); }

 private:
  struct sigaction before_{};
};

int execute(const Kernel& kernel, const unsigned* grid, const unsigned* block, unsigned shared,
            const char* arguments) {
  const FaultReport report(kernel.name);
  const std::string misbehaviour = launch(kernel, grid, block, shared, arguments);
  const std::string name = std::string(kernel.name) + ": ";
  if (!misbehaviour.empty()) return fault(kLaunchFailed, name + misbehaviour);
  const std::string damage = damaged_block();
  return damage.empty() ? kSuccess : fault(kIllegalAddress, name + damage);
}

}  // namespace

EMULATED cuInit(unsigned) {
  ENTER("cuInit");
  return gpus().empty() ? kNoDevice : kSuccess;
}

EMULATED cuDriverGetVersion(int* version) {
  *version = driver_version();
  return kSuccess;
}

EMULATED cuDeviceGetCount(int* count) {
  ENTER("cuDeviceGetCount");
  *count = static_cast<int>(gpus().size());
  return kSuccess;
}

EMULATED cuDeviceGet(int* device, int ordinal) {
  ENTER("cuDeviceGet");
  *device = ordinal;
  return exists(ordinal) ? kSuccess : kInvalidDevice;
}

EMULATED cuDeviceGetName(char* name, int size, int device) {
  ENTER("cuDeviceGetName");
  if (!exists(device)) return kInvalidDevice;
  std::snprintf(name, static_cast<size_t>(size), "emulated sm_%d", gpus()[device]);
  return kSuccess;
}

EMULATED cuDeviceTotalMem_v2(size_t* bytes, int device) {
  ENTER("cuDeviceTotalMem");
  *bytes = memory_bytes();
  return exists(device) ? kSuccess : kInvalidDevice;
}

EMULATED cuDeviceGetAttribute(int* value, int attribute, int device) {
  ENTER("cuDeviceGetAttribute");
  if (!exists(device)) return kInvalidDevice;
  const int architecture = gpus()[device];
  switch (attribute) {
    case kCapabilityMajor: *value = architecture / 10; return kSuccess;
    case kCapabilityMinor: *value = architecture % 10; return kSuccess;
    case kMultiprocessors: *value = 1; return kSuccess;
    case kSharedMemoryOptIn: *value = shared_bytes(architecture); return kSuccess;
  }
  return kInvalidValue;
}

EMULATED cuDevicePrimaryCtxRetain(Context* context, int device) {
  ENTER("cuDevicePrimaryCtxRetain");
  static auto* primary = new std::vector<Context>;
  if (!exists(device)) return kInvalidDevice;
  if (primary->size() <= static_cast<size_t>(device)) primary->resize(device + 1);
  Context& made = (*primary)[device];
  if (!made) made = new ContextState{device};
  *context = made;
  return kSuccess;
}

EMULATED cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER("cuDevicePrimaryCtxRelease");
  return exists(device) ? kSuccess : kInvalidDevice;
}

EMULATED cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  ENTER("cuDevicePrimaryCtxGetState");
  *flags = 0;
  *active = 1;
  return exists(device) ? kSuccess : kInvalidDevice;
}

EMULATED cuCtxSetCurrent(Context context) {
  ENTER("cuCtxSetCurrent");
  if (!contexts.empty()) contexts.pop_back();
  if (context) contexts.push_back(context);
  return kSuccess;
}

EMULATED cuCtxGetCurrent(Context* context) {
  ENTER("cuCtxGetCurrent");
  *context = contexts.empty() ? nullptr : contexts.back();
  return kSuccess;
}

EMULATED cuCtxGetDevice(int* device) {
  ENTER("cuCtxGetDevice");
  if (contexts.empty()) return kInvalidContext;
  *device = contexts.back()->device;
  return kSuccess;
}

EMULATED cuCtxPushCurrent_v2(Context context) {
  ENTER("cuCtxPushCurrent");
  if (!context) return kInvalidContext;
  contexts.push_back(context);
  return kSuccess;
}

EMULATED cuCtxPopCurrent_v2(Context* context) {
  ENTER("cuCtxPopCurrent");
  if (contexts.empty()) return kInvalidContext;
  *context = contexts.back();
  contexts.pop_back();
  return kSuccess;
}

EMULATED cuCtxSynchronize() {
  ENTER_UNCAPTURED("cuCtxSynchronize");
  return contexts.empty() ? kInvalidContext : kSuccess;
}

EMULATED cuModuleLoadData(Module* module, const void* image) {
  ENTER_UNCAPTURED("cuModuleLoadData");
  if (contexts.empty()) return kInvalidContext;
  const int architecture = gpus()[contexts.back()->device];
  Image read = read_image(image, architecture, driver_version());
  if (read.status) return read.status;
  *module = new ModuleState{architecture, std::move(read)};
  return kSuccess;
}

EMULATED cuModuleUnload(Module module) {
  ENTER_UNCAPTURED("cuModuleUnload");
  delete module;
  return kSuccess;
}

EMULATED cuModuleGetFunction(Function* function, Module module, const char* name) {
  ENTER_UNCAPTURED("cuModuleGetFunction");
  const Kernel* kernel = find_kernel(module->architecture, name);
  if (!kernel || (module->image.lists_kernels && !module->image.kernels.count(name))) {
    return kNotFound;
  }
  *function = new FunctionState{kernel, module->architecture, kDefaultShared};
  return kSuccess;
}

EMULATED cuFuncLoad(Function) {
  ENTER_UNCAPTURED("cuFuncLoad");
  return kSuccess;
}

EMULATED cuFuncGetAttribute(int* value, int attribute, Function function) {
  ENTER("cuFuncGetAttribute");
  switch (attribute) {
    case kMaxDynamicShared: *value = function->most_shared; return kSuccess;
    case kSharedSize:
    case kLocalSize:
    case kRegisters: *value = 0; return kSuccess;
  }
  return kInvalidValue;
}

EMULATED cuFuncSetAttribute(Function function, int attribute, int value) {
  ENTER("cuFuncSetAttribute");
  if (attribute != kMaxDynamicShared || value < 0 || value > shared_bytes(function->architecture)) {
    return kInvalidValue;
  }
  function->most_shared = value;
  return kSuccess;
}

EMULATED cuLaunchKernel(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        Stream stream, void** parameters, void** extra) {
  ENTER("cuLaunchKernel");
  if (contexts.empty()) return kInvalidContext;
  // The arguments as CU_LAUNCH_PARAM_BUFFER_POINTER (1) and _SIZE (2), then _END (0).
  if (parameters || !extra || extra[0] != reinterpret_cast<void*>(1) ||
      extra[2] != reinterpret_cast<void*>(2) || extra[4]) {
    return kInvalidValue;
  }
  const Kernel& kernel = *function->kernel;
  const uint64_t threads = uint64_t{block_x} * block_y * block_z;
  if (*static_cast<const size_t*>(extra[3]) != kernel.argument_bytes || !grid_x || !grid_y ||
      !grid_z || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535 || !threads ||
      block_z > 64) {
    return kInvalidValue;
  }
  if (threads > 1024 || threads > kernel.threads) return kLaunchOutOfResources;
  if (shared > static_cast<unsigned>(function->most_shared)) return kInvalidValue;
  const std::string arguments(static_cast<const char*>(extra[1]), kernel.argument_bytes);
  return enqueue(stream, [=, &kernel] {
    const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    return execute(kernel, grid, block, shared, arguments.data());
  });
}
