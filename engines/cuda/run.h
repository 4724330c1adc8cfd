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
  size_t shared_per_block;  // maximum bytes of a block, with opt-in
  double memory_bandwidth;  // bytes per second, from clock and bus width; 0 if not reported
  int driver_version;       // of CUDA: 12040
};

// Number of GPUs that the driver reports. Throws Error if there is no driver.
int device_count();
// Opens no context. Throws Error for an ordinal that does not exist.
DeviceInfo device_info(int ordinal);

// Resources that a kernel uses.
struct KernelUse {
  int registers, local_bytes, shared_bytes;  // per thread, per thread, per block
};

// What a caller can reduce if memory is short: {8, "images"}.
struct Units {
  int64_t count;
  const char* name;
};

// One CUDA context and the kernels loaded in it. Objects are never destroyed: the driver may be
// gone when static destructors run.
class Device {
 public:
  // The GPU of the calling thread's current context if `ordinal` is -1 or is that GPU; else the
  // primary context of GPU `ordinal` (-1: 0). The same object for the same context. Throws Error if
  // there is no driver, no such GPU, or the GPU is older than sm_75.
  static Device& open(int ordinal = -1);

  const DeviceInfo& info() const { return info_; }
  int architecture() const { return info_.architecture; }
  // What BIDIFF_CUDA_PATH names: auto, xor, and, int8 or popc; kAuto without it. Throws Error for
  // another name, or a path that is not compiled for this GPU.
  Path path() const;

  // Loads the plan's kernels, which may compile them; does nothing if they are loaded. Not legal
  // under stream capture, so it belongs to set-up. Throws Error with the remedy if there are no
  // kernels for this GPU.
  void load(const Plan& plan);
  // The same for all kernels of a path (kAuto: the first) and those that every path needs.
  void load(Path path);
  // Where the loaded kernels come from, for people to read; empty if none is loaded.
  std::string origin() const;
  // A kernel by name, ready to be launched with as much shared memory as the GPU has.
  Function function(const char* kernel);
  KernelUse use(const char* kernel);

  // Allocates GPU memory; `purpose` names it in the sentence of OutOfMemory, which also says how
  // many of the caller's units would fit.
  Pointer allocate(size_t bytes, const char* purpose = "a buffer", Units units = {0, ""});
  void release(Pointer pointer) noexcept;
  void upload(Pointer to, const void* from, size_t bytes);
  void download(void* to, Pointer from, size_t bytes);
  void fill(Pointer to, unsigned char value, size_t bytes);
  void memory(size_t* free, size_t* total);
  void synchronize(Stream stream);

  // Makes the device's context current in this thread while the object lives.
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

// Enqueues a plan's launches on the stream: no synchronisation, no allocation, legal under stream
// capture once load(plan) has been called for a plan of the same kernels. Throws Error.
void run(Device& device, const Plan& plan, Stream stream);

}  // namespace bidiff::cuda
