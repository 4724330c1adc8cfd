// bidiff::BinaryConv and bidiff::NormBinaryConv.
#include <vector>

#include "binary_branch.h"
#include "float_inputs.h"
#include "op.h"

namespace bidiff::ort {
namespace {

int64_t channels_of_x(const Api& api, const KernelInfo* info) {
  const Dims dims = input_dims(api, info, 0);
  return dims.size() == 4 ? dims[1] : 0;
}

void read_time(const Call& call, const Tensor& time, Problem* problem) {
  if (!time.data) return;
  problem->time = call.vector(time, "time", problem->shape.out_channels, true);
  problem->time_is_scalar = time.is_scalar();
}

Dims output_dims(const Shape& shape) {
  return {shape.batch, shape.out_channels, shape.height, shape.width};
}

class BinaryConv {
 public:
  static constexpr const char* kName = "BinaryConv";
  static constexpr size_t kInputs = 7, kRequired = 3;
  static constexpr unsigned kIntegers = 1 << 1;
  static constexpr int kChannels = 1;
  static constexpr Size kSize = Size::kSame;

  BinaryConv(const Api& api, const KernelInfo* info)
      : api(api), branch_(api, info, kernel_or_refuse(api), 1, channels_of_x(api, info)) {}

  void compute(Call& call) {
    const Tensor x = call.input(0);
    Problem problem{};
    branch_.read(call, x.dims, &problem);
    problem.x = x.floats();
    const Tensor residual = call.input(5);
    if (residual.data) {
      call.require(check_residual(residual.dims, problem.shape));
      problem.residual = residual.floats();
      problem.residual_is_scalar = residual.is_scalar();
    }
    read_time(call, call.input(6), &problem);
    problem.y = call.output(output_dims(problem.shape));
    call.finish(branch_.run(call, problem));
  }

  const Api& api;

 private:
  BinaryBranch branch_;
};

// Inputs x, scale, bias, words, alpha, threshold, rprelu, time, skip.
class NormBinaryConv {
 public:
  static constexpr const char* kName = "NormBinaryConv";
  static constexpr size_t kInputs = 9, kRequired = 9;
  static constexpr unsigned kIntegers = 1 << 3;
  static constexpr int kChannels = kChannelsOfX;
  static constexpr Size kSize = Size::kSame;

  NormBinaryConv(const Api& api, const KernelInfo* info)
      : api(api),
        floats_(float_kernels(kernel_or_refuse(api))),
        groups_(integer_attribute(api, info, "groups")),
        branch_(api, info, kernel_or_refuse(api), 3, channels_of_x(api, info)) {}

  void compute(Call& call) {
    const Tensor x = call.input(0), skip = call.input(8);
    const MapShape map = call.map(x, "x");
    Problem problem{};
    branch_.read(call, x.dims, &problem);
    call.require(problem.shape.out_channels == map.channels,
                 "words must have as many output channels as x has channels");
    read_time(call, call.input(7), &problem);
    if (!skip.is_scalar() || skip.dims == x.dims) {
      call.require(skip.dims == x.dims, "skip must have the shape of x or one element");
      problem.skip = skip.floats();
    } else {
      call.require(*skip.floats() == 0.0f, "skip must be a map or a single 0");
    }
    const Norm norm = read_norm(call, groups_, map.channels);
    std::vector<float> affine(static_cast<size_t>(map.batch * map.channels * 2));
    problem.x = x.floats();
    problem.affine = affine.data();
    problem.affine_swish = floats_.norm->affine_swish;
    problem.residual_is_input = true;
    problem.y = call.output(x.dims);
    call.finish(floats_.norm->affine(problem.x, map, norm, affine.data(), call.parallel()) &&
                branch_.run(call, problem));
  }

  const Api& api;

 private:
  const FloatKernels& floats_;
  int64_t groups_;
  BinaryBranch branch_;
};

}  // namespace

CustomOps binary_conv_ops(const Api& api, bool infers_shapes) {
  return {registered<BinaryConv>(api, infers_shapes),
          registered<NormBinaryConv>(api, infers_shapes)};
}

}  // namespace bidiff::ort
