#include "run.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "plan_names.h"

namespace bidiff::cuda {

namespace {

int attribute(int device, DeviceAttribute which) {
  int value = 0;
  check(driver().device_attribute(&value, which, device), "asking the GPU for its properties");
  return value;
}

// 0 if the driver does not report it, as for the memory that a Jetson shares with its CPU.
double attribute_or_zero(int device, DeviceAttribute which) {
  int value = 0;
  return driver().device_attribute(&value, which, device) == kSuccess ? value : 0;
}

DeviceInfo examine(int device, int ordinal) {
  DeviceInfo info{};
  char name[256] = "";
  check(driver().device_name(name, sizeof(name), device), "asking for the GPU's name");
  check(driver().device_memory(&info.memory, device), "asking for the GPU's memory");
  name[sizeof(name) - 1] = 0;
  info.ordinal = ordinal;
  info.name = name;
  info.architecture =
      10 * attribute(device, kCapabilityMajor) + attribute(device, kCapabilityMinor);
  info.multiprocessors = attribute(device, kMultiprocessors);
  info.shared_per_block = static_cast<size_t>(attribute(device, kSharedMemoryOptIn));
  // From kilohertz, two transfers per clock, and bits.
  info.memory_bandwidth = 2e3 * attribute_or_zero(device, kMemoryClockRate) *
                          attribute_or_zero(device, kMemoryBusWidth) / 8;
  info.driver_version = driver().version;
  return info;
}

// Every context that was ever opened. Objects are never freed, see Device.
struct Devices {
  std::mutex mutex;
  std::map<Context, Device*> by_context;
  std::map<int, Context> primary;
};

Devices& devices() {
  static Devices* all = new Devices;
  return *all;
}

std::string text(size_t bytes) {
  return bytes < (size_t{10} << 20) ? std::to_string(bytes) + " bytes"
                                    : std::to_string(bytes >> 20) + " MiB";
}

}  // namespace

int device_count() {
  int count = 0;
  check(driver().device_count(&count), "counting the GPUs");
  return count;
}

DeviceInfo device_info(int ordinal) {
  const int count = device_count();
  if (ordinal < 0 || ordinal >= count) {
    throw Error("there is no GPU " + std::to_string(ordinal) + ": the driver reports " +
                std::to_string(count) + "; check nvidia-smi and CUDA_VISIBLE_DEVICES");
  }
  int device = 0;
  check(driver().device_get(&device, ordinal), "opening the GPU");
  return examine(device, ordinal);
}

Device& Device::open(int ordinal) {
  const Driver& api = driver();
  Context current = nullptr;
  int device = -1;
  check(api.context_current(&current), "asking for the current CUDA context");
  if (current) check(api.context_device(&device), "asking for the GPU of the CUDA context");

  Devices& all = devices();
  const std::lock_guard<std::mutex> lock(all.mutex);
  // cuDeviceGet numbers devices from 0, and its handles are these numbers.
  const bool use_current = current && (ordinal < 0 || ordinal == device);
  const int wanted = use_current ? device : ordinal < 0 ? 0 : ordinal;
  const auto primary = all.primary.find(wanted);
  Context context = use_current                    ? current
                    : primary != all.primary.end() ? primary->second
                                                   : nullptr;
  const auto found = all.by_context.find(context);
  if (context && found != all.by_context.end()) return *found->second;

  const DeviceInfo info = device_info(wanted);
  if (info.architecture < kMinArchitecture) {
    throw Error("GPU " + std::to_string(wanted) + " (" + info.name + ") has compute capability " +
                std::to_string(info.architecture / 10) + "." +
                std::to_string(info.architecture % 10) +
                ", the kernels need 7.5 (Turing) or newer; choose backend onnxruntime, which needs "
                "no GPU");
  }
  if (!context) {
    check(api.device_get(&device, wanted), "opening the GPU");
    check(api.primary_retain(&context, device), "opening a CUDA context");
    all.primary[wanted] = context;
  }
  return *(all.by_context[context] = new Device(info, context));
}

Path Device::path() const {
  const char* named = std::getenv("BIDIFF_CUDA_PATH");
  const std::string name = named && *named ? named : path_name(Path::kAuto);
  if (name == path_name(Path::kAuto)) return Path::kAuto;
  std::string known = path_name(Path::kAuto);
  for (const Path path : paths(info_.architecture)) {
    if (name == path_name(path)) return path;
    known += std::string(", ") + path_name(path);
  }
  throw Error("BIDIFF_CUDA_PATH=" + name + " is not a path of GPU " +
              std::to_string(info_.ordinal) + " (sm_" + std::to_string(info_.architecture) +
              "); its paths are " + known);
}

Device::Scope::Scope(Device& device) {
  Context current = nullptr;
  check(driver().context_current(&current), "asking for the current CUDA context");
  if (current == device.context_) return;
  check(driver().context_push(device.context_), "entering the CUDA context");
  pushed_ = true;
}

Device::Scope::~Scope() {
  Context popped = nullptr;
  if (pushed_) driver().context_pop(&popped);
}

void Device::load(const Plan& plan) {
  for (const Launch& launch : plan.launches) function(launch.kernel);
}

void Device::load(Path path) {
  const std::vector<Path> all = paths(info_.architecture);
  const std::string wanted =
      std::string("_") + path_name(path == Path::kAuto ? all.front() : path) + "_";
  for (const char* kernel : kernel_names(info_.architecture)) {
    const std::string name = kernel;
    const bool is_of_another = std::any_of(all.begin(), all.end(), [&](Path other) {
      const std::string mark = std::string("_") + path_name(other) + "_";
      return mark != wanted && name.find(mark) != std::string::npos;
    });
    if (!is_of_another) function(kernel);
  }
}

std::string Device::origin() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return modules_.origin();
}

Function Device::function(const char* kernel) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto known = functions_.find(std::string_view(kernel));
  if (known != functions_.end()) return known->second;
  const Scope scope(*this);
  const Driver& api = driver();
  const Function found = modules_.find(kernel);
  // The driver loads a kernel when it is first used, which is not legal while a graph is captured.
  if (api.function_load) check(api.function_load(found), kernel);
  int fixed = 0;
  check(api.function_attribute(&fixed, kSharedSize, found), kernel);
  const int max_shared = static_cast<int>(info_.shared_per_block) - fixed;
  check(api.function_set(found, kMaxDynamicShared, max_shared), kernel);
  functions_.emplace(kernel, found);
  return found;
}

KernelUse Device::use(const char* kernel) {
  const Function known = function(kernel);
  const Scope scope(*this);
  KernelUse found{};
  check(driver().function_attribute(&found.registers, kRegisters, known), kernel);
  check(driver().function_attribute(&found.local_bytes, kLocalSize, known), kernel);
  check(driver().function_attribute(&found.shared_bytes, kSharedSize, known), kernel);
  return found;
}

Pointer Device::allocate(size_t bytes, const char* purpose, Units units) {
  const Scope scope(*this);
  Pointer pointer = 0;
  const int code = driver().memory_allocate(&pointer, bytes ? bytes : 1);
  if (code != kOutOfMemory) {
    check(code, "allocating memory of the GPU");
    return pointer;
  }
  size_t free = 0, total = 0;
  driver().memory_info(&free, &total);
  std::string remedy = "close other programs that use it, or make batch or tiles smaller";
  if (units.count > 0) {
    const double share = static_cast<double>(free) / static_cast<double>(bytes);
    remedy += ": of " + std::to_string(units.count) + " " + units.name + " " +
              std::to_string(static_cast<int64_t>(share * static_cast<double>(units.count))) +
              " would fit";
  }
  throw OutOfMemory("GPU " + std::to_string(info_.ordinal) + " (" + info_.name +
                        ") has no room for " + text(bytes) + " for " + purpose + ": " + text(free) +
                        " of " + text(total) + " are free; " + remedy,
                    bytes, free, total);
}

void Device::release(Pointer pointer) noexcept {
  try {
    const Scope scope(*this);
    if (pointer) driver().memory_free(pointer);
  } catch (const Error&) {  // the context is gone, and its memory with it
  }
}

void Device::upload(Pointer to, const void* from, size_t bytes) {
  const Scope scope(*this);
  if (bytes) check(driver().copy_to_device(to, from, bytes), "copying to the GPU");
}

void Device::download(void* to, Pointer from, size_t bytes) {
  const Scope scope(*this);
  if (bytes) check(driver().copy_to_host(to, from, bytes), "copying from the GPU");
}

void Device::fill(Pointer to, unsigned char value, size_t bytes) {
  const Scope scope(*this);
  if (bytes) check(driver().fill_bytes(to, value, bytes), "filling memory of the GPU");
}

void Device::memory(size_t* free, size_t* total) {
  const Scope scope(*this);
  check(driver().memory_info(free, total), "asking for the GPU's free memory");
}

void Device::synchronize(Stream stream) {
  const Scope scope(*this);
  check(driver().stream_synchronize(stream), "running on the GPU");
}

void run(Device& device, const Plan& plan, Stream stream) {
  const Device::Scope scope(device);
  for (const Launch& launch : plan.launches) {
    size_t size = launch.arguments.size();
    // CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE and _END: the one argument, with its size.
    void* extra[] = {reinterpret_cast<void*>(1), const_cast<uint8_t*>(launch.arguments.data()),
                     reinterpret_cast<void*>(2), &size, nullptr};
    const Function function = device.function(launch.kernel);
    const int code =
        driver().launch(function, launch.grid[0], launch.grid[1], launch.grid[2], launch.block[0],
                        launch.block[1], launch.block[2], launch.shared, stream, nullptr, extra);
    if (code != kSuccess) check(code, ("launching " + std::string(launch.kernel)).c_str());
  }
}

}  // namespace bidiff::cuda
