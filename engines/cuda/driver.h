// NVIDIA's driver API, opened at run time, so that no part of CUDA is needed to build or to load
// this library. BIDIFF_LIBCUDA names another file than libcuda.so.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace bidiff::cuda {

// Every failure here is thrown as one sentence that says what to do.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An allocation that does not fit in the GPU's memory; sizes in bytes.
struct OutOfMemory : Error {
  OutOfMemory(const std::string& sentence, size_t wanted, size_t free, size_t total)
      : Error(sentence), wanted(wanted), free(free), total(total) {}
  size_t wanted, free, total;
};

// Handles of the driver's ABI: an ONNX Runtime or PyTorch stream is a Stream.
using Pointer = uint64_t;
using Stream = struct StreamState*;
using Event = struct EventState*;
using Context = struct ContextState*;
using Module = struct ModuleState*;
using Function = struct FunctionState*;
using Graph = struct GraphState*;
using GraphExec = struct GraphExecState*;

enum Status : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kStubLibrary = 34,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kNoBinaryForGpu = 209,
  kInvalidPtx = 218,
  kUnsupportedPtxVersion = 222,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kLaunchTimeout = 702,
  kLaunchFailed = 719,
  kSystemDriverMismatch = 803,
  kCompatNotSupportedOnDevice = 804,
  kStreamCaptureUnsupported = 900,
  kUnknown = 999,
};

enum DeviceAttribute : int {
  kMultiprocessors = 16,
  kMemoryClockRate = 36,  // kHz
  kMemoryBusWidth = 37,   // bits
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kSharedMemoryOptIn = 97,
};
enum FunctionAttribute : int {
  kSharedSize = 1,
  kLocalSize = 3,
  kRegisters = 4,
  kMaxDynamicShared = 8,
};

// clang-format off: it takes pointer parameters in macro arguments for products.
// Member, exported name and parameters of every driver function that is used.
#define BIDIFF_CUDA_FUNCTIONS(X)                                                                \
  X(init, "cuInit", (unsigned flags))                                                           \
  X(driver_version, "cuDriverGetVersion", (int* version))                                       \
  X(error_name, "cuGetErrorName", (int code, const char** name))                                \
  X(error_text, "cuGetErrorString", (int code, const char** text))                              \
  X(device_count, "cuDeviceGetCount", (int* count))                                             \
  X(device_get, "cuDeviceGet", (int* device, int ordinal))                                      \
  X(device_name, "cuDeviceGetName", (char* name, int size, int device))                         \
  X(device_memory, "cuDeviceTotalMem_v2", (size_t* bytes, int device))                          \
  X(device_attribute, "cuDeviceGetAttribute", (int* value, int attribute, int device))          \
  X(primary_retain, "cuDevicePrimaryCtxRetain", (Context* context, int device))                 \
  X(context_current, "cuCtxGetCurrent", (Context* context))                                     \
  X(context_device, "cuCtxGetDevice", (int* device))                                            \
  X(context_push, "cuCtxPushCurrent_v2", (Context context))                                     \
  X(context_pop, "cuCtxPopCurrent_v2", (Context* context))                                      \
  X(context_synchronize, "cuCtxSynchronize", ())                                                \
  X(module_load, "cuModuleLoadData", (Module* module, const void* image))                       \
  X(module_unload, "cuModuleUnload", (Module module))                                           \
  X(module_function, "cuModuleGetFunction",                                                     \
    (Function* function, Module module, const char* name))                                      \
  X(function_attribute, "cuFuncGetAttribute", (int* value, int attribute, Function function))   \
  X(function_set, "cuFuncSetAttribute", (Function function, int attribute, int value))          \
  X(launch, "cuLaunchKernel",                                                                   \
    (Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,    \
     unsigned block_y, unsigned block_z, unsigned shared, Stream stream, void** parameters,     \
     void** extra))                                                                             \
  X(memory_info, "cuMemGetInfo_v2", (size_t* free, size_t* total))                              \
  X(memory_allocate, "cuMemAlloc_v2", (Pointer* pointer, size_t bytes))                         \
  X(memory_free, "cuMemFree_v2", (Pointer pointer))                                             \
  X(copy_to_device, "cuMemcpyHtoD_v2", (Pointer to, const void* from, size_t bytes))            \
  X(copy_to_host, "cuMemcpyDtoH_v2", (void* to, Pointer from, size_t bytes))                    \
  X(fill_bytes, "cuMemsetD8_v2", (Pointer to, unsigned char value, size_t bytes))               \
  X(stream_create, "cuStreamCreate", (Stream* stream, unsigned flags))                          \
  X(stream_destroy, "cuStreamDestroy_v2", (Stream stream))                                      \
  X(stream_synchronize, "cuStreamSynchronize", (Stream stream))                                 \
  X(event_create, "cuEventCreate", (Event* event, unsigned flags))                              \
  X(event_destroy, "cuEventDestroy_v2", (Event event))                                          \
  X(event_record, "cuEventRecord", (Event event, Stream stream))                                \
  X(event_synchronize, "cuEventSynchronize", (Event event))                                     \
  X(event_elapsed, "cuEventElapsedTime", (float* milliseconds, Event start, Event end))         \
  X(capture_begin, "cuStreamBeginCapture_v2", (Stream stream, int mode))                        \
  X(capture_end, "cuStreamEndCapture", (Stream stream, Graph* graph))                           \
  X(graph_instantiate, "cuGraphInstantiateWithFlags",                                           \
    (GraphExec* exec, Graph graph, unsigned long long flags))                                   \
  X(graph_launch, "cuGraphLaunch", (GraphExec exec, Stream stream))                             \
  X(graph_exec_destroy, "cuGraphExecDestroy", (GraphExec exec))                                 \
  X(graph_destroy, "cuGraphDestroy", (Graph graph))
// clang-format on

struct Driver {
#define BIDIFF_CUDA_MEMBER(member, name, parameters) int(*member) parameters;
  BIDIFF_CUDA_FUNCTIONS(BIDIFF_CUDA_MEMBER)
#undef BIDIFF_CUDA_MEMBER
  int (*function_load)(Function function);  // null before CUDA 12.4
  int version;                              // 12040 for CUDA 12.4
};

// The driver, opened and initialised once per process. Throws Error if there is none.
const Driver& driver();

// Throws Error unless `code` is kSuccess. `what` says what was attempted: "copying to the GPU".
void check(int code, const char* what);
std::string describe(int code);  // "CUDA_ERROR_NO_DEVICE (100)"

std::string version_text(int version);  // "12.4" of 12040

}  // namespace bidiff::cuda
