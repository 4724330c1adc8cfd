#include "support.h"

#include <cstdlib>
#include <memory>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bidiff {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kLarge = size_t{64} << 10;  // beyond what the L1 cache and a few pages hold

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

void* aligned(size_t bytes, size_t alignment) {
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, rounded ? rounded : alignment);
}

// Buffers that a thread walks through again and again: in huge pages, where the system has them on
// request, the walk needs one address translation instead of one a page.
void* aligned_to_huge_page(size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t kHugePage = size_t{2} << 20;
  void* memory = aligned(bytes, kHugePage);
  if (memory) madvise(memory, (bytes + kHugePage - 1) / kHugePage * kHugePage, MADV_HUGEPAGE);
  return memory;
#else
  return aligned(bytes, kAlignment);
#endif
}

struct Slot {
  std::unique_ptr<void, Free> memory;
  size_t bytes = 0;
};

thread_local Slot slots[kScratchSlots];

}  // namespace

void* thread_scratch(int slot, size_t bytes) {
  Slot& mine = slots[slot];
  if (!mine.memory || mine.bytes < bytes) {
    mine.memory.reset();  // before the new one, so that a thread never holds both
    mine.memory.reset(bytes < kLarge ? aligned(bytes, kAlignment) : aligned_to_huge_page(bytes));
    mine.bytes = mine.memory ? bytes : 0;
  }
  return mine.memory.get();
}

void* run_scratch(size_t bytes) { return aligned(bytes, kAlignment); }

void free_run_scratch(void* memory) { std::free(memory); }

int64_t processors() {
  static const int64_t count = std::thread::hardware_concurrency();
  return count > 0 ? count : 1;
}

void run_tasks(const Parallel& parallel, int64_t work, size_t count,
               void (*task)(void* user, size_t index), void* user) {
  if (count > 1 && work >= kSerialWork && parallel.run) {
    parallel.run(parallel.host, task, count, user);
    return;
  }
  for (size_t index = 0; index < count; ++index) task(user, index);
}

void mark_failed(TaskFailure* failure) { __atomic_store_n(&failure->failed, 1, __ATOMIC_RELAXED); }

}  // namespace bidiff
