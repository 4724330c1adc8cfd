#include "support.h"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bidiff {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHuge = size_t{2} << 20;    // a huge page; less would waste most of it
constexpr size_t kLarge = size_t{64} << 10;  // too large for the L1 cache and a few pages

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

void* aligned(size_t bytes, size_t alignment) {
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, rounded ? rounded : alignment);
}

// Buffers that a thread walks through repeatedly: in huge pages, if the system has them on request,
// the walk needs one address translation instead of one per page.
void* aligned_to_huge_page(size_t bytes) {
  const size_t whole = (bytes + kHuge - 1) / kHuge * kHuge;
  void* memory = aligned(whole, kHuge);
  if (memory) advise_huge_pages(memory, whole);
  return memory;
}

struct Slot {
  std::unique_ptr<void, Free> memory;
  size_t bytes = 0;
};

thread_local Slot slots[kScratchSlots];

// Freed large run buffers, kept for the next run: each fresh page costs a page fault, which for a
// map of 8 MB takes longer than the convolution that fills it.
struct Kept {
  struct Header {
    size_t bytes;  // of the block, this header included
  };
  static constexpr size_t kHeader = 64;  // keeps what follows aligned
  static constexpr int kBlocks = 4;
  static constexpr size_t kMaxKept = size_t{64} << 20;  // kept in total

  std::mutex mutex;
  Header* blocks[kBlocks] = {};
  size_t bytes = 0;

  // A kept block of at least `wanted` bytes and at most twice as many, or null.
  Header* take(size_t wanted) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (Header*& block : blocks) {
      if (!block || block->bytes < wanted || block->bytes / 2 > wanted) continue;
      Header* const found = block;
      block = nullptr;
      bytes -= found->bytes;
      return found;
    }
    return nullptr;
  }

  // False if there is no room for it.
  bool put(Header* header) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (bytes + header->bytes > kMaxKept) return false;
    for (Header*& block : blocks) {
      if (block) continue;
      block = header;
      bytes += header->bytes;
      return true;
    }
    return false;
  }
};

// Never destroyed: a run may still be ending while the process exits.
Kept& kept() {
  static Kept* const all = new Kept;
  return *all;
}

}  // namespace

void advise_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t start = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (start + kHuge - 1) / kHuge * kHuge,
                  past = (start + bytes) / kHuge * kHuge;
  if (past > first) madvise(reinterpret_cast<void*>(first), past - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

void* thread_scratch(int slot, size_t bytes) {
  Slot& mine = slots[slot];
  if (!mine.memory || mine.bytes < bytes) {
    mine.memory.reset();  // before the new one, so that a thread never has both
    mine.memory.reset(bytes < kLarge ? aligned(bytes, kAlignment) : aligned_to_huge_page(bytes));
    mine.bytes = mine.memory ? bytes : 0;
  }
  return mine.memory.get();
}

void* run_scratch(size_t bytes) {
  const size_t whole = bytes + Kept::kHeader;
  Kept::Header* header = whole < kLarge ? nullptr : kept().take(whole);
  if (!header) {
    void* memory = whole < kHuge ? aligned(whole, kAlignment) : aligned_to_huge_page(whole);
    if (!memory) return nullptr;
    header = static_cast<Kept::Header*>(memory);
    header->bytes = whole;
  }
  return reinterpret_cast<char*>(header) + Kept::kHeader;
}

void free_run_scratch(void* memory) {
  if (!memory) return;
  Kept::Header* header =
      reinterpret_cast<Kept::Header*>(static_cast<char*>(memory) - Kept::kHeader);
  if (header->bytes < kLarge || !kept().put(header)) std::free(header);
}

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
