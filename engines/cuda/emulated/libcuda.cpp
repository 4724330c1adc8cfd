// The driver functions that driver.h names, for GPUs that are this CPU: streams run at once, and
// kernels are those of kernel_table.h. It checks what a real driver and compute-sanitizer check.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "../driver.h"
#include "images.h"
#include "kernel_table.h"
#include "memory.h"
#include "state.h"

using namespace bidiff::cuda;
using namespace bidiff::cuda::emulated;

#define EMULATED extern "C" __attribute__((visibility("default"))) int
// The machine is locked until the function returns, and faults are sticky.
#define ENTER(function)                                               \
  const std::lock_guard<std::recursive_mutex> lock(machine());        \
  if (const int failure = enter(function)) return failure
// The same for what may not happen while this thread captures a graph.
#define ENTER_UNCAPTURED(function) \
  ENTER(function);                 \
  if (captured) return kStreamCaptureUnsupported

namespace bidiff::cuda {

struct ContextState {
  int device;
};
struct ModuleState {
  int architecture;
  Image image;
};
struct FunctionState {
  const Kernel* kernel;
  int architecture;
  int most_shared;
};
struct StreamState {
  GraphState* capturing = nullptr;
};
struct EventState {
  std::chrono::steady_clock::time_point time;
  bool recorded = false;
};

struct GraphState {
  struct Node {
    const Kernel* kernel;
    unsigned grid[3], block[3], shared;
    std::string arguments;
    std::function<int()> work;  // of a node without a kernel
    bool unlocked = false;      // calls code that may wait for another thread
  };
  std::vector<Node> nodes;
};
struct GraphExecState {
  GraphState graph;
};

}  // namespace bidiff::cuda

namespace {

constexpr int kDefaultShared = 48 << 10;
thread_local Stream captured = nullptr;  // the stream that this thread captures

thread_local std::vector<Context> contexts;
const char* running = "";  // kernel

bool exists(int device) { return device >= 0 && device < static_cast<int>(gpus().size()); }

// Only safe functions belong here, but the process ends anyway, and the report is worth it.
void on_fault(int number, siginfo_t* info, void*) {
  std::fprintf(stderr, "emulated GPU: %s touched %s\n", running,
               describe_address(reinterpret_cast<uint64_t>(info->si_addr)).c_str());
  signal(number, SIG_DFL);
  raise(number);
}

// Turns a touch of forbidden memory into a report, for as long as it lives.
class FaultReport {
 public:
  explicit FaultReport(const char* kernel) {
    running = kernel;
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_);
  }
  ~FaultReport() { sigaction(SIGSEGV, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

int execute(const GraphState::Node& node) {
  if (!node.kernel) return node.work();
  const FaultReport report(node.kernel->name);
  const std::string misbehaviour =
      launch(*node.kernel, node.grid, node.block, node.shared, node.arguments.data());
  const std::string name = std::string(node.kernel->name) + ": ";
  if (!misbehaviour.empty()) return fault(kLaunchFailed, name + misbehaviour);
  const std::string damage = damaged_block();
  return damage.empty() ? kSuccess : fault(kIllegalAddress, name + damage);
}

// Copies and the like, which streams order among kernels: at once, or when the graph is launched.
int enqueue(Stream stream, std::function<int()> work) {
  if (stream && stream->capturing) {
    stream->capturing->nodes.push_back({nullptr, {}, {}, 0, "", std::move(work)});
    return kSuccess;
  }
  return captured ? kStreamCaptureUnsupported : work();
}

int copy(void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
  const auto outside = [&](const void* pointer) {
    return !is_allocated(reinterpret_cast<uint64_t>(pointer), bytes);
  };
  if ((to_device && outside(to)) || (from_device && outside(from))) return kInvalidValue;
  std::memmove(to, from, bytes);
  return kSuccess;
}
void* at(Pointer pointer) { return reinterpret_cast<void*>(pointer); }

}  // namespace

EMULATED cuInit(unsigned) {
  ENTER("cuInit");
  return gpus().empty() ? kNoDevice : kSuccess;
}

EMULATED cuDriverGetVersion(int* version) {
  *version = driver_version();
  return kSuccess;
}

EMULATED cuGetErrorName(int code, const char** name) {
  static const struct { int code; const char* name; } known[] = {
      {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"}, {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
      {kNoDevice, "CUDA_ERROR_NO_DEVICE"}, {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"},
      {kNoBinaryForGpu, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {kNotFound, "CUDA_ERROR_NOT_FOUND"},
      {kUnsupportedPtxVersion, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
      {kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED"}};
  for (const auto& entry : known) {
    if (entry.code == code) return *name = entry.name, kSuccess;
  }
  return *name = nullptr, kInvalidValue;
}

EMULATED cuGetErrorString(int code, const char** text) { return cuGetErrorName(code, text); }

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
  const GraphState::Node node{
      &kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, arguments, {}};
  if (stream && stream->capturing) {
    stream->capturing->nodes.push_back(node);
    return kSuccess;
  }
  return captured ? kStreamCaptureUnsupported : execute(node);
}

EMULATED cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER("cuMemGetInfo");
  *total = memory_bytes();
  *free = *total - std::min(*total, allocated_bytes());
  return contexts.empty() ? kInvalidContext : kSuccess;
}

EMULATED cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
  ENTER_UNCAPTURED("cuMemAlloc");
  if (contexts.empty()) return kInvalidContext;
  if (!bytes) return kInvalidValue;
  const size_t used = allocated_bytes(), total = memory_bytes();
  if (used > total || bytes > total - used) return kOutOfMemory;
  *pointer = allocate(bytes);
  return *pointer ? kSuccess : kOutOfMemory;
}

EMULATED cuMemFree_v2(Pointer pointer) {
  ENTER_UNCAPTURED("cuMemFree");
  return release(pointer) ? kSuccess : kInvalidValue;
}

EMULATED cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
  ENTER_UNCAPTURED("cuMemcpyHtoD");
  return copy(at(to), from, bytes, true, false);
}

EMULATED cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
  ENTER_UNCAPTURED("cuMemcpyDtoH");
  return copy(to, at(from), bytes, false, true);
}

EMULATED cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, Stream stream) {
  ENTER("cuMemcpyHtoDAsync");
  return enqueue(stream, [=] { return copy(at(to), from, bytes, true, false); });
}

EMULATED cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, Stream stream) {
  ENTER("cuMemcpyDtoHAsync");
  return enqueue(stream, [=] { return copy(to, at(from), bytes, false, true); });
}

EMULATED cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) {
  ENTER_UNCAPTURED("cuMemcpyDtoD");
  return copy(at(to), at(from), bytes, true, true);
}

EMULATED cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Stream stream) {
  ENTER("cuMemcpyDtoDAsync");
  return enqueue(stream, [=] { return copy(at(to), at(from), bytes, true, true); });
}

EMULATED cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, Stream stream) {
  ENTER("cuMemsetD8Async");
  return enqueue(stream, [=] {
    if (!is_allocated(to, bytes)) return static_cast<int>(kInvalidValue);
    std::memset(at(to), value, bytes);
    return static_cast<int>(kSuccess);
  });
}

EMULATED cuMemAllocHost_v2(void** pointer, size_t bytes) {
  ENTER_UNCAPTURED("cuMemAllocHost");
  if (contexts.empty()) return kInvalidContext;
  if (!bytes) return kInvalidValue;
  *pointer = std::malloc(bytes);
  return *pointer ? kSuccess : kOutOfMemory;
}

EMULATED cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  return cuMemAllocHost_v2(pointer, bytes);
}

EMULATED cuMemFreeHost(void* pointer) {
  ENTER_UNCAPTURED("cuMemFreeHost");
  std::free(pointer);
  return kSuccess;
}

EMULATED cuMemsetD8_v2(Pointer to, unsigned char value, size_t bytes) {
  ENTER_UNCAPTURED("cuMemsetD8");
  if (!is_allocated(to, bytes)) return kInvalidValue;
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return kSuccess;
}

EMULATED cuStreamCreate(Stream* stream, unsigned) {
  ENTER("cuStreamCreate");
  *stream = new StreamState;
  return contexts.empty() ? kInvalidContext : kSuccess;
}

EMULATED cuStreamDestroy_v2(Stream stream) {
  ENTER("cuStreamDestroy");
  delete stream;
  return kSuccess;
}

EMULATED cuStreamSynchronize(Stream) {
  ENTER_UNCAPTURED("cuStreamSynchronize");
  return contexts.empty() ? kInvalidContext : kSuccess;
}

EMULATED cuStreamIsCapturing(Stream stream, int* status) {
  ENTER("cuStreamIsCapturing");
  *status = stream && stream->capturing;
  return kSuccess;
}

EMULATED cuStreamWaitEvent(Stream, Event, unsigned) {
  ENTER("cuStreamWaitEvent");
  return kSuccess;
}

EMULATED cuStreamQuery(Stream) {
  ENTER_UNCAPTURED("cuStreamQuery");
  return kSuccess;
}

EMULATED cuEventCreate(Event* event, unsigned) {
  ENTER("cuEventCreate");
  *event = new EventState;
  return kSuccess;
}

EMULATED cuEventDestroy_v2(Event event) {
  ENTER("cuEventDestroy");
  delete event;
  return kSuccess;
}

EMULATED cuEventRecord(Event event, Stream) {
  ENTER("cuEventRecord");
  event->time = std::chrono::steady_clock::now();
  event->recorded = true;
  return kSuccess;
}

EMULATED cuEventSynchronize(Event event) {
  ENTER_UNCAPTURED("cuEventSynchronize");
  return event->recorded ? kSuccess : kInvalidValue;
}

EMULATED cuEventElapsedTime(float* milliseconds, Event start, Event end) {
  ENTER("cuEventElapsedTime");
  if (!start->recorded || !end->recorded) return kInvalidValue;
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return kSuccess;
}

EMULATED cuStreamBeginCapture_v2(Stream stream, int) {
  ENTER_UNCAPTURED("cuStreamBeginCapture");
  if (!stream) return kStreamCaptureUnsupported;
  stream->capturing = new GraphState;
  captured = stream;
  return kSuccess;
}

EMULATED cuStreamEndCapture(Stream stream, Graph* graph) {
  ENTER("cuStreamEndCapture");
  if (!stream || stream != captured) return kInvalidValue;
  *graph = stream->capturing;
  captured = nullptr;
  stream->capturing = nullptr;
  return kSuccess;
}

EMULATED cuGraphInstantiateWithFlags(GraphExec* exec, Graph graph, unsigned long long) {
  ENTER("cuGraphInstantiate");
  *exec = new GraphExecState{*graph};
  return kSuccess;
}

EMULATED cuGraphLaunch(GraphExec exec, Stream) {
  std::unique_lock<std::recursive_mutex> lock(machine());
  if (const int failure = enter("cuGraphLaunch")) return failure;
  if (captured) return kStreamCaptureUnsupported;
  for (const GraphState::Node& node : exec->graph.nodes) {
    if (node.unlocked) lock.unlock();
    const int failure = execute(node);
    if (node.unlocked) lock.lock();
    if (failure) return node.unlocked ? fault(kLaunchFailed, "a host function failed") : failure;
  }
  return kSuccess;
}

EMULATED cuGraphExecDestroy(GraphExec exec) {
  ENTER("cuGraphExecDestroy");
  delete exec;
  return kSuccess;
}

EMULATED cuGraphDestroy(Graph graph) {
  ENTER("cuGraphDestroy");
  delete graph;
  return kSuccess;
}

// For tests: code of the host that runs in the stream's order, as a kernel would, also whenever a
// graph that captured it is launched. What it does is not locked, for it may wait for a thread that
// waits for this machine. It returns 0, or anything else for a failure.
EMULATED bidiff_emulated_launch(Stream stream, int (*work)(void*), void* data) {
  {
    ENTER("bidiff_emulated_launch");
    if (stream && stream->capturing) {
      stream->capturing->nodes.push_back(
          {nullptr, {}, {}, 0, "", [=] { return work(data); }, true});
      return kSuccess;
    }
    if (captured) return kStreamCaptureUnsupported;
  }
  return work(data) ? kLaunchFailed : kSuccess;
}

// For tests: whether these bytes are in one block of device memory.
EMULATED bidiff_emulated_is_allocated(Pointer pointer, size_t bytes) {
  const std::lock_guard<std::recursive_mutex> lock(machine());
  return is_allocated(pointer, bytes);
}
