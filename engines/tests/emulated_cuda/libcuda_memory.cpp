// The emulated driver's memory: allocation, and copies, immediate or in stream order.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "libcuda.h"

using namespace bidiff::cuda;
using namespace bidiff::cuda::emulated;

namespace {

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

// For tests: whether these bytes are in one block of device memory.
EMULATED bidiff_emulated_is_allocated(Pointer pointer, size_t bytes) {
  const std::lock_guard<std::recursive_mutex> lock(machine());
  return is_allocated(pointer, bytes);
}
