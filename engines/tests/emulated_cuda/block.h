// The threads of one block, as fibers: barriers, and operations of whole warps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

namespace bidiff::cuda::emulated {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;

// What the kernels can see of a thread.
struct Thread {
  Fiber fiber;
  unsigned index;
  // Copies from global to shared memory that were started and not waited for.
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    unsigned group;
  };
  std::vector<Copy> copies;
  unsigned groups;  // committed
};

// An operation of all lanes of a warp; operands[lane] is what that lane passed.
using WarpOperation = void (*)(void* const* operands);

class Block;

extern BIDIFF_THREAD_LOCAL Block* running_block;

class Block {
 public:
  // The block that the calling fiber belongs to.
  static Block& current() { return *running_block; }

  Thread& thread() { return *running_; }
  unsigned index[3];
  bool early_copies = false;  // asynchronous copies happen at once
  unsigned char* shared() { return shared_.get(); }

  void synchronize();
  // The last lane to arrive carries out the operation for all.
  void warp(WarpOperation operation, void* operand);

  // The launch continues, and reports the first sentence at the end of the block.
  void fail(const std::string& sentence);

  // Runs one launch in the calling thread; "" or what went wrong.
  std::string launch(void (*body)(const void* arguments), const void* arguments,
                     const unsigned grid[3], unsigned threads, unsigned shared_bytes);

 private:
  enum class State : unsigned char { kReady, kAtWarp, kAtBlock, kDone };

  struct Warp {
    unsigned arrived;
    WarpOperation operation;
    void* operands[kWarp];
  };

  static void thread_entry(void* user);
  std::string run_block(unsigned shared_bytes);
  void wait(State state);  // until somebody makes the thread ready
  Thread* next_ready();

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<State> states_;  // of threads
  std::vector<Warp> warps_;
  std::vector<unsigned> order_;  // of threads
  std::unique_ptr<unsigned char[]> shared_;
  Fiber host_;
  Thread* running_ = nullptr;
  unsigned count_ = 0, finished_ = 0, at_block_ = 0;
  void (*body_)(const void* arguments) = nullptr;
  const void* arguments_ = nullptr;
  std::string failure_;
};

}  // namespace bidiff::cuda::emulated
