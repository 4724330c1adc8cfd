// The emulated driver's streams, events and graphs. Work on a stream is done when it is requested;
// while a graph is captured it is recorded, and done whenever the graph is launched.
#include <chrono>
#include <utility>

#include "libcuda.h"

namespace bidiff::cuda {

struct EventState {
  std::chrono::steady_clock::time_point time;
  bool recorded = false;
};
struct GraphExecState {
  GraphState graph;
};

namespace emulated {

thread_local Stream captured = nullptr;
thread_local std::vector<Context> contexts;

int enqueue(Stream stream, std::function<int()> work) {
  if (stream && stream->capturing) {
    stream->capturing->nodes.push_back({std::move(work), false});
    return kSuccess;
  }
  return captured ? kStreamCaptureUnsupported : work();
}

}  // namespace emulated
}  // namespace bidiff::cuda

using namespace bidiff::cuda;
using namespace bidiff::cuda::emulated;

EMULATED cuStreamCreate(Stream* stream, unsigned) {
  ENTER("cuStreamCreate");
  *stream = new StreamState;
  return contexts.empty() ? kInvalidContext : kSuccess;
}

EMULATED cuStreamDestroy_v2(Stream stream) {
  ENTER("cuStreamDestroy");
  delete stream;
  return kSuccess;
}

EMULATED cuStreamSynchronize(Stream) {
  ENTER_UNCAPTURED("cuStreamSynchronize");
  return contexts.empty() ? kInvalidContext : kSuccess;
}

EMULATED cuStreamIsCapturing(Stream stream, int* status) {
  ENTER("cuStreamIsCapturing");
  *status = stream && stream->capturing;
  return kSuccess;
}

EMULATED cuStreamWaitEvent(Stream, Event, unsigned) {
  ENTER("cuStreamWaitEvent");
  return kSuccess;
}

EMULATED cuStreamQuery(Stream) {
  ENTER_UNCAPTURED("cuStreamQuery");
  return kSuccess;
}

EMULATED cuEventCreate(Event* event, unsigned) {
  ENTER("cuEventCreate");
  *event = new EventState;
  return kSuccess;
}

EMULATED cuEventDestroy_v2(Event event) {
  ENTER("cuEventDestroy");
  delete event;
  return kSuccess;
}

EMULATED cuEventRecord(Event event, Stream) {
  ENTER("cuEventRecord");
  event->time = std::chrono::steady_clock::now();
  event->recorded = true;
  return kSuccess;
}

EMULATED cuEventSynchronize(Event event) {
  ENTER_UNCAPTURED("cuEventSynchronize");
  return event->recorded ? kSuccess : kInvalidValue;
}

EMULATED cuEventElapsedTime(float* milliseconds, Event start, Event end) {
  ENTER("cuEventElapsedTime");
  if (!start->recorded || !end->recorded) return kInvalidValue;
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return kSuccess;
}

EMULATED cuStreamBeginCapture_v2(Stream stream, int) {
  ENTER_UNCAPTURED("cuStreamBeginCapture");
  if (!stream) return kStreamCaptureUnsupported;
  stream->capturing = new GraphState;
  captured = stream;
  return kSuccess;
}

EMULATED cuStreamEndCapture(Stream stream, Graph* graph) {
  ENTER("cuStreamEndCapture");
  if (!stream || stream != captured) return kInvalidValue;
  *graph = stream->capturing;
  captured = nullptr;
  stream->capturing = nullptr;
  return kSuccess;
}

EMULATED cuGraphInstantiateWithFlags(GraphExec* exec, Graph graph, unsigned long long) {
  ENTER("cuGraphInstantiate");
  *exec = new GraphExecState{*graph};
  return kSuccess;
}

EMULATED cuGraphLaunch(GraphExec exec, Stream) {
  std::unique_lock<std::recursive_mutex> lock(machine());
  if (const int failure = enter("cuGraphLaunch")) return failure;
  if (captured) return kStreamCaptureUnsupported;
  for (const GraphState::Node& node : exec->graph.nodes) {
    if (node.unlocked) lock.unlock();
    const int failure = node.work();
    if (node.unlocked) lock.lock();
    if (failure) return node.unlocked ? fault(kLaunchFailed, "a host function failed") : failure;
  }
  return kSuccess;
}

EMULATED cuGraphExecDestroy(GraphExec exec) {
  ENTER("cuGraphExecDestroy");
  delete exec;
  return kSuccess;
}

EMULATED cuGraphDestroy(Graph graph) {
  ENTER("cuGraphDestroy");
  delete graph;
  return kSuccess;
}

// For tests: host code that runs in stream order, as a kernel would, also whenever a graph that
// captured it is launched. It runs without the lock, because it may wait for a thread that waits
// for this machine. It returns 0, or nonzero for a failure.
EMULATED bidiff_emulated_launch(Stream stream, int (*work)(void*), void* data) {
  {
    ENTER("bidiff_emulated_launch");
    if (stream && stream->capturing) {
      stream->capturing->nodes.push_back({[=] { return work(data); }, true});
      return kSuccess;
    }
    if (captured) return kStreamCaptureUnsupported;
  }
  return work(data) ? kLaunchFailed : kSuccess;
}
