// Memory and thread helpers for kernels. Compiled without instruction-set flags (support.cpp), so
// that the kernel files themselves need nothing from the C++ library.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "binary_conv.h"

namespace bidiff {

// Work below this many binary multiply-adds (about 50 us of a vector kernel on one core) is not
// worth waking other threads for.
constexpr int64_t kSerialWork = int64_t{1} << 24;

// A buffer of at least `bytes`, 64-byte aligned, owned by the calling thread and reused by its next
// call with the same slot; contents are undefined. Null when memory is short. Concurrent runs are
// safe: a task never gives up its thread before it ends.
void* thread_scratch(int slot, size_t bytes);
constexpr int kScratchSlots = 4;

// A buffer for one run, 64-byte aligned, contents undefined; null when memory is short. Some large
// ones are kept for later runs after they are freed.
void* run_scratch(size_t bytes);
void free_run_scratch(void* memory);

// Asks the system to back memory that is about to be written by huge pages, as far as whole ones
// fit into it: fewer page faults at first, fewer address translations later. May do nothing.
void advise_huge_pages(void* memory, size_t bytes);

// Processors this process may use. A host does not report how many threads it has; work is cut for
// this many, which costs little if there are fewer.
int64_t processors();

// Runs `task` through the host, or in this thread when there is one task or little work.
void run_tasks(const Parallel& parallel, int64_t work, size_t count,
               void (*task)(void* user, size_t index), void* user);

// Set by a task that failed; read after run_tasks.
struct TaskFailure {
  volatile int failed = 0;
};
void mark_failed(TaskFailure* failure);

}  // namespace bidiff
