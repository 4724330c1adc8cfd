// A GPU with our kernels loaded, and plans executed on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "driver.h"
#include "module.h"
#include "plan.h"

namespace bidiff::cuda {

struct DeviceInfo {
  int ordinal;
  std::string name;
  int architecture;  // 10 * major + minor: 75, 87, 120
  int multiprocessors;
  size_t memory;            // bytes
  size_t shared_per_block;  // bytes a block may have at most, by opting in
  double memory_bandwidth;  // bytes in a second, from clock and bus; 0 if the driver does not say
  int driver_version;       // of CUDA: 12040
};

// How many GPUs the driver sees. Throws Error where there is no driver.
int device_count();
// Without opening a context. Throws Error for an ordinal that is not there.
DeviceInfo device_info(int ordinal);

// What a kernel takes of a multiprocessor.
struct KernelUse {
  int registers, local_bytes, shared_bytes;  // of a thread, of a thread, of a block
};

// What a caller could have fewer of, were there too little memory: {8, "images"}.
struct Units {
  int64_t count;
  const char* name;
};

// One CUDA context and the kernels loaded in it. Objects live as long as the process: the driver
// may be gone by the time static destructors run.
class Device {
 public:
  // The GPU of the calling thread's current context if `ordinal` is -1 or is that GPU; else the
  // primary context of GPU `ordinal` (-1: 0). The same object for the same context.
  // Throws Error: no driver, no such GPU, or one older than sm_75.
  static Device& open(int ordinal = -1);

  const DeviceInfo& info() const { return info_; }
  int architecture() const { return info_.architecture; }
  // What BIDIFF_CUDA_PATH names: auto, xor, and, int8 or popc; kAuto without it. Throws Error for
  // another name, or a path that is not compiled for this GPU.
  Path path() const;

  // Makes the plan's kernels ready, which may compile them; nothing if they are. Not legal under
  // stream capture, hence for set-up. Throws Error: no kernels for this GPU, with the remedy.
  void load(const Plan& plan);
  // The same for all kernels of a path (kAuto: of the first), and those that every path needs.
  void load(Path path);
  // Where the loaded kernels come from, for people; empty if none is.
  std::string origin() const;
  // A kernel by name, ready to be launched with any shared memory that the GPU has.
  Function function(const char* kernel);
  KernelUse use(const char* kernel);

  // Memory of the GPU; `purpose` names it in the sentence of OutOfMemory, which also tells how many
  // of the caller's units would fit.
  Pointer allocate(size_t bytes, const char* purpose = "a buffer", Units units = {0, ""});
  void release(Pointer pointer) noexcept;
  void upload(Pointer to, const void* from, size_t bytes);
  void download(void* to, Pointer from, size_t bytes);
  void fill(Pointer to, unsigned char value, size_t bytes);
  void memory(size_t* free, size_t* total);
  void synchronize(Stream stream);

  // Makes the device's context current in this thread for as long as it lives.
  class Scope {
   public:
    explicit Scope(Device& device);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    bool pushed_ = false;
  };

 private:
  Device(DeviceInfo info, Context context)
      : info_(std::move(info)), context_(context), modules_(info_) {}

  const DeviceInfo info_;
  const Context context_;
  mutable std::mutex mutex_;
  Modules modules_;
  std::map<std::string, Function, std::less<>> functions_;
};

// Puts a plan's launches on the stream: no synchronisation, no allocation, legal under stream
// capture once load(plan) has been called for a plan of the same kernels. Throws Error.
void run(Device& device, const Plan& plan, Stream stream);

}  // namespace bidiff::cuda
