// What the emulated driver's functions share.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "../../cuda/driver.h"
#include "memory.h"
#include "state.h"

#define EMULATED extern "C" __attribute__((visibility("default"))) int
// The machine is locked until the function returns, and faults are sticky.
#define ENTER(function)                                        \
  const std::lock_guard<std::recursive_mutex> lock(machine()); \
  if (const int failure = enter(function)) return failure
// The same for functions that are illegal while this thread captures a graph.
#define ENTER_UNCAPTURED(function) \
  ENTER(function);                 \
  if (captured) return kStreamCaptureUnsupported

namespace bidiff::cuda {

struct ContextState {
  int device;
};
struct GraphState {
  struct Node {
    std::function<int()> work;
    bool unlocked;  // it calls code that may wait for another thread
  };
  std::vector<Node> nodes;
};
struct StreamState {
  GraphState* capturing = nullptr;
};

namespace emulated {

extern thread_local Stream captured;  // the stream that this thread captures
extern thread_local std::vector<Context> contexts;

// Does the work now, or, if the stream is captured, whenever the graph is launched.
int enqueue(Stream stream, std::function<int()> work);

}  // namespace emulated
}  // namespace bidiff::cuda
