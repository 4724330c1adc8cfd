#include "support.h"

#include <cstdlib>
#include <memory>

namespace bidiff {
namespace {

constexpr size_t kAlignment = 64;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

void* aligned(size_t bytes) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return std::aligned_alloc(kAlignment, rounded ? rounded : kAlignment);
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
    mine.memory.reset(aligned(bytes));
    mine.bytes = mine.memory ? bytes : 0;
  }
  return mine.memory.get();
}

void* run_scratch(size_t bytes) { return aligned(bytes); }

void free_run_scratch(void* memory) { std::free(memory); }

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
