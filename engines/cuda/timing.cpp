#include "timing.h"

#include <memory>

namespace bidiff::cuda {

namespace {

// A handle that a function of the driver destroys.
template <class Handle>
struct Owned {
  explicit Owned(int (*destroy)(Handle)) : destroy(destroy) {}
  ~Owned() {
    if (handle) destroy(handle);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  Handle handle = nullptr;
  int (*const destroy)(Handle);
};

constexpr unsigned kNonBlocking = 1;  // CU_STREAM_NON_BLOCKING
constexpr int kThreadLocal = 1;       // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

}  // namespace

double time_plans(Device& device, const std::vector<Plan>& plans, int rounds, bool as_graph) {
  const Driver& api = driver();
  for (const Plan& plan : plans) device.load(plan);
  const Device::Scope scope(device);
  Owned<Stream> stream(api.stream_destroy);
  Owned<Event> start(api.event_destroy), end(api.event_destroy);
  Owned<Graph> graph(api.graph_destroy);
  Owned<GraphExec> exec(api.graph_exec_destroy);
  check(api.stream_create(&stream.handle, kNonBlocking), "making a stream");
  check(api.event_create(&start.handle, 0), "making an event");
  check(api.event_create(&end.handle, 0), "making an event");

  const auto run_all = [&] {
    for (const Plan& plan : plans) run(device, plan, stream.handle);
  };
  if (as_graph) {
    check(api.capture_begin(stream.handle, kThreadLocal), "capturing a CUDA graph");
    try {
      run_all();
    } catch (...) {
      api.capture_end(stream.handle, &graph.handle);
      throw;
    }
    check(api.capture_end(stream.handle, &graph.handle), "capturing a CUDA graph");
    check(api.graph_instantiate(&exec.handle, graph.handle, 0), "making a CUDA graph");
  }
  const auto round = [&] {
    if (!as_graph) return run_all();
    check(api.graph_launch(exec.handle, stream.handle), "launching a CUDA graph");
  };
  round();
  check(api.event_record(start.handle, stream.handle), "timing");
  for (int i = 0; i < rounds; ++i) round();
  check(api.event_record(end.handle, stream.handle), "timing");
  check(api.event_synchronize(end.handle), "running on the GPU");
  float milliseconds = 0;
  check(api.event_elapsed(&milliseconds, start.handle, end.handle), "timing");
  return static_cast<double>(milliseconds) / rounds / static_cast<double>(plans.size());
}

}  // namespace bidiff::cuda
