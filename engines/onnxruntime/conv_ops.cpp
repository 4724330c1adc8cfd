// bidiff::GroupNormSwish, Conv3x3, WinogradConv and NormConv.
#include <vector>

#include "float_inputs.h"
#include "op.h"

namespace bidiff::ort {
namespace {

class GroupNormSwish {
 public:
  static constexpr const char* kName = "GroupNormSwish";
  static constexpr size_t kInputs = 3, kRequired = 3;
  static constexpr unsigned kIntegers = 0;
  static constexpr int kChannels = kChannelsOfX;
  static constexpr Size kSize = Size::kSame;

  GroupNormSwish(const Api& api, const KernelInfo* info)
      : api(api),
        floats_(kernels_or_refuse(api)),
        groups_(integer_attribute(api, info, "groups")) {}

  void compute(Call& call) {
    const Tensor x = call.input(0);
    const MapShape map = call.map(x, "x");
    const Norm norm = read_norm(call, groups_, map.channels);
    float* y = call.output(x.dims);
    call.finish(floats_.norm->norm_swish(x.floats(), map, norm, y, call.parallel()));
  }

  const Api& api;

 private:
  const FloatKernels& floats_;
  int64_t groups_;
};

// What the convolutions share: a weight at input `at`, and the kernel that takes it.
class Convolution {
 public:
  Convolution(const Api& api, const KernelInfo* info, size_t at, Precision precision,
              const ConvKernel* FloatKernels::* kernel)
      : api(api),
        floats_(kernels_or_refuse(api)),
        precision_(precision),
        at_(at),
        kernel_(*(floats_.*kernel)),
        packed_(kernel_, precision_) {
    const Tensor weight = constant_input(api, info, at);
    constant_ = weight.data != nullptr;
    if (constant_ && weight.dims.size() == 4 && weight.dims[2] == 3 && weight.dims[3] == 3) {
      packed_.get(weight, true);
    }
  }

  const Api& api;

 protected:
  // Weight and bias; fills shape, out_channels, x and bias.
  Tensor read(const Call& call, ConvProblem* problem) const {
    const Tensor x = call.input(0), weight = call.input(at_);
    problem->shape = call.map(x, "x");
    problem->x = x.floats();
    require_weight(call, weight, problem->shape.channels, 3);
    problem->out_channels = weight.dims[0];
    problem->bias = call.vector(call.input(at_ + 1), "bias", problem->out_channels, false);
    return weight;
  }

  static void read_skip(const Call& call, const Tensor& skip, ConvProblem* problem) {
    const MapShape& map = problem->shape;
    const Dims wanted = {map.batch, problem->out_channels, map.height, map.width};
    call.require(skip.dims == wanted || skip.is_scalar(),
                 "skip must have the output's shape " + text(wanted) + " or one element, not " +
                     text(skip.dims));
    problem->skip = skip.floats();
    problem->skip_is_scalar = skip.is_scalar() && skip.dims != wanted;
  }

  void run(Call& call, const Tensor& weight, ConvProblem* problem) {
    const MapShape& map = problem->shape;
    problem->y = call.output({map.batch, problem->out_channels, map.height, map.width});
    const std::shared_ptr<const void> packed = packed_.get(weight, constant_);
    call.finish(packed &&
                kernel_.run(*problem, packed.get(), precision_, *floats_.norm, call.parallel()));
  }

  const FloatKernels& floats_;

 private:
  Precision precision_;
  size_t at_;
  const ConvKernel& kernel_;
  bool constant_;
  PackedFloats<ConvKernel> packed_;
};

// Inputs x, weight, bias.
class Conv3x3 : public Convolution {
 public:
  static constexpr const char* kName = "Conv3x3";
  static constexpr size_t kInputs = 3, kRequired = 3;
  static constexpr unsigned kIntegers = 0;
  static constexpr int kChannels = 1;
  static constexpr Size kSize = Size::kSame;

  Conv3x3(const Api& api, const KernelInfo* info)
      : Convolution(api, info, 1, Precision::kFloat32, &FloatKernels::direct3x3) {}

  void compute(Call& call) {
    ConvProblem problem{};
    const Tensor weight = read(call, &problem);
    run(call, weight, &problem);
  }
};

// Inputs x, weight, bias, skip.
class WinogradConv : public Convolution {
 public:
  static constexpr const char* kName = "WinogradConv";
  static constexpr size_t kInputs = 4, kRequired = 4;
  static constexpr unsigned kIntegers = 0;
  static constexpr int kChannels = 1;
  static constexpr Size kSize = Size::kSame;

  WinogradConv(const Api& api, const KernelInfo* info)
      : Convolution(api, info, 1, read_precision(api, info, kName), &FloatKernels::conv3x3),
        slope_(float_attribute(api, info, "slope")),
        input_slope_(float_attribute(api, info, "input_slope")) {}

  void compute(Call& call) {
    ConvProblem problem{};
    const Tensor weight = read(call, &problem);
    read_skip(call, call.input(3), &problem);
    if (problem.skip_is_scalar) {
      call.require(*problem.skip == 0.0f, "skip must be a map or a single 0");
      problem.skip = nullptr;
    }
    problem.slope = slope_;
    problem.input_slope = input_slope_;
    run(call, weight, &problem);
  }

 private:
  float slope_, input_slope_;
};

// Inputs x, scale, bias, weight, conv_bias, time, skip.
class NormConv : public Convolution {
 public:
  static constexpr const char* kName = "NormConv";
  static constexpr size_t kInputs = 7, kRequired = 7;
  static constexpr unsigned kIntegers = 0;
  static constexpr int kChannels = 3;
  static constexpr Size kSize = Size::kSame;

  NormConv(const Api& api, const KernelInfo* info)
      : Convolution(api, info, 3, read_precision(api, info, kName), &FloatKernels::conv3x3),
        groups_(integer_attribute(api, info, "groups")) {}

  void compute(Call& call) {
    ConvProblem problem{};
    const Tensor weight = read(call, &problem), time = call.input(5), skip = call.input(6);
    const MapShape& map = problem.shape;
    problem.time = call.vector(time, "time", problem.out_channels, true);
    problem.time_is_scalar = time.is_scalar();
    read_skip(call, skip, &problem);
    const Norm norm = read_norm(call, groups_, map.channels);
    std::vector<float> affine(static_cast<size_t>(map.batch * map.channels * 2));
    problem.affine = affine.data();
    const bool done = floats_.norm->affine(problem.x, map, norm, affine.data(), call.parallel());
    if (!done) call.finish(false);
    run(call, weight, &problem);
  }

 private:
  int64_t groups_;
};

}  // namespace

CustomOps conv_ops(const Api& api, bool infers_shapes) {
  return {registered<GroupNormSwish>(api, infers_shapes), registered<Conv3x3>(api, infers_shapes),
          registered<WinogradConv>(api, infers_shapes), registered<NormConv>(api, infers_shapes)};
}

}  // namespace bidiff::ort
