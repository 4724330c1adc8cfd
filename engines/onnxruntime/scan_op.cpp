// bidiff::SelectiveScan.
#include "float_inputs.h"
#include "op.h"

namespace bidiff::ort {
namespace {

// Inputs x, delta, b, c, a, skip.
class SelectiveScan {
 public:
  static constexpr const char* kName = "SelectiveScan";
  static constexpr size_t kInputs = 6, kRequired = 6;
  static constexpr unsigned kIntegers = 0;
  static constexpr int kChannels = kChannelsOfX;
  static constexpr Size kSize = Size::kSame;

  SelectiveScan(const Api& api, const KernelInfo* info)
      : api(api),
        floats_(kernels_or_refuse(api)),
        columns_(integer_attribute(api, info, "columns") != 0),
        reverse_(integer_attribute(api, info, "reverse") != 0) {}

  void compute(Call& call) {
    const Tensor x = call.input(0), delta = call.input(1), b = call.input(2), c = call.input(3);
    const Tensor a = call.input(4);
    ScanProblem problem{};
    problem.shape = call.map(x, "x");
    problem.states = call.map(b, "b").channels;
    const MapShape& map = problem.shape;
    call.require(delta.dims == x.dims, "delta must have the shape of x");
    const Dims states{map.batch, problem.states, map.height, map.width};
    call.require(b.dims == states && c.dims == states,
                 "b and c must have the same shape, and the batch, height and width of x");
    call.require(problem.states <= kMaxStates, "b has " + std::to_string(problem.states) +
                                                   " channels, and at most " +
                                                   std::to_string(kMaxStates) + " are possible");
    call.require(a.dims == Dims{map.channels, problem.states},
                 "a must have shape (channels of x, channels of b), not " + text(a.dims));
    problem.columns = columns_;
    problem.reverse = reverse_;
    problem.x = x.floats();
    problem.delta = delta.floats();
    problem.b = b.floats();
    problem.c = c.floats();
    problem.a = a.floats();
    problem.skip = call.vector(call.input(5), "skip", map.channels, false);
    problem.y = call.output(x.dims);
    call.finish(floats_.scan->run(problem, call.parallel()));
  }

  const Api& api;

 private:
  const FloatKernels& floats_;
  bool columns_, reverse_;
};

}  // namespace

CustomOps scan_ops(const Api& api, bool infers_shapes) {
  return {registered<SelectiveScan>(api, infers_shapes)};
}

}  // namespace bidiff::ort
