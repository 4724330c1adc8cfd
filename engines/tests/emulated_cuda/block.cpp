#include "block.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>

namespace bidiff::cuda::emulated {

BIDIFF_THREAD_LOCAL Block* running_block;

namespace {

// Shared memory has no initial content on a GPU: a float NaN, a large integer.
constexpr unsigned char kGarbage = 0xff;

// The order in which threads run between barriers.
std::vector<unsigned> thread_order(unsigned count) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  const char* wish = std::getenv("BIDIFF_EMULATED_ORDER");
  if (!wish || !*wish || !std::strcmp(wish, "forward")) return order;
  if (!std::strcmp(wish, "reverse")) {
    std::reverse(order.begin(), order.end());
  } else {
    std::mt19937 generator(static_cast<unsigned>(std::strtoul(wish, nullptr, 10)));
    std::shuffle(order.begin(), order.end(), generator);
  }
  return order;
}

}  // namespace

void Block::thread_entry(void* user) {
  Block& block = *static_cast<Block*>(user);
  block.body_(block.arguments_);
  ++block.finished_;
  block.wait(State::kDone);
}

// A warp runs on until all its lanes wait for other warps, so that warps get as far ahead of each
// other as barriers allow.
Thread* Block::next_ready() {
  if (running_) {
    const unsigned first = running_->index / kWarp * kWarp;
    for (unsigned i = 1; i <= kWarp; ++i) {
      const unsigned next = first + (running_->index + i) % kWarp;
      if (states_[next] == State::kReady) return threads_[next].get();
    }
  }
  for (unsigned i = 0; i < count_; ++i) {
    if (states_[order_[i]] == State::kReady) return threads_[order_[i]].get();
  }
  return nullptr;
}

void Block::wait(State state) {
  Thread* self = running_;
  states_[self->index] = state;
  Thread* next = next_ready();
  if (next == self) return;
  running_ = next;
  // If no thread is ready, the block is finished or deadlocked.
  (next ? next->fiber : host_).resume(&self->fiber);
}

void Block::synchronize() {
  if (++at_block_ == count_) {
    at_block_ = 0;
    std::fill(states_.begin(), states_.end(), State::kReady);
  } else {
    wait(State::kAtBlock);
  }
}

void Block::fail(const std::string& sentence) {
  if (failure_.empty()) failure_ = sentence;
}

void Block::warp(WarpOperation operation, void* operand) {
  const unsigned number = running_->index / kWarp;
  Warp& warp = warps_[number];
  if (warp.arrived && warp.operation != operation) {
    fail("the lanes of a warp reached different operations");
  }
  warp.operation = operation;
  warp.operands[running_->index % kWarp] = operand;
  if (++warp.arrived < kWarp) {
    wait(State::kAtWarp);
    return;
  }
  warp.arrived = 0;
  if (failure_.empty()) operation(warp.operands);
  std::fill_n(states_.begin() + number * kWarp, kWarp, State::kReady);
}

std::string Block::run_block(unsigned shared_bytes) {
  std::memset(shared_.get(), kGarbage, shared_bytes);
  finished_ = at_block_ = 0;
  failure_.clear();
  states_.assign(count_, State::kReady);
  for (Warp& warp : warps_) warp.arrived = 0;
  for (unsigned i = 0; i < count_; ++i) {
    Thread& thread = *threads_[i];
    thread.index = i;
    thread.copies.clear();
    thread.groups = 0;
    thread.fiber.start(thread_entry, this);
  }
  running_ = nullptr;
  running_ = next_ready();
  running_->fiber.resume(&host_);
  if (finished_ < count_) fail("some threads of a block wait at a barrier that others never reach");
  return failure_;
}

std::string Block::launch(void (*body)(const void* arguments), const void* arguments,
                          const unsigned grid[3], unsigned threads, unsigned shared_bytes) {
  body_ = body;
  arguments_ = arguments;
  count_ = threads;
  while (threads_.size() < threads) threads_.push_back(std::make_unique<Thread>());
  warps_.resize(threads / kWarp);
  order_ = thread_order(threads);
  const char* copies = std::getenv("BIDIFF_EMULATED_COPIES");
  early_copies = copies && !std::strcmp(copies, "early");
  // Its exact size, so that an address sanitizer detects accesses beyond it.
  shared_ = std::make_unique<unsigned char[]>(shared_bytes);
  Block* before = running_block;
  running_block = this;
  std::string failure;
  for (index[2] = 0; index[2] < grid[2] && failure.empty(); ++index[2]) {
    for (index[1] = 0; index[1] < grid[1] && failure.empty(); ++index[1]) {
      for (index[0] = 0; index[0] < grid[0] && failure.empty(); ++index[0]) {
        failure = run_block(shared_bytes);
      }
    }
  }
  running_block = before;
  return failure;
}

}  // namespace bidiff::cuda::emulated
