// bidiff::PairConv and Attention.
#include <memory>
#include <vector>

#include "float_inputs.h"
#include "op.h"

namespace bidiff::ort {
namespace {

// Inputs x, second, weight, bias.
class PairConv {
 public:
  static constexpr const char* kName = "PairConv";
  static constexpr size_t kInputs = 4, kRequired = 4;
  static constexpr unsigned kIntegers = 0;
  static constexpr int kChannels = 2;
  static constexpr Size kSize = Size::kSame;

  PairConv(const Api& api, const KernelInfo* info)
      : api(api),
        floats_(kernels_or_refuse(api)),
        precision_(read_precision(api, info, kName)),
        packed_(*floats_.pointwise, precision_) {
    const Tensor weight = constant_input(api, info, 2);
    constant_ = weight.data != nullptr;
    if (constant_ && weight.dims.size() == 4) packed_.get(weight, true);
  }

  void compute(Call& call) {
    const Tensor x = call.input(0), second = call.input(1), weight = call.input(2);
    PointwiseProblem problem{};
    problem.shape = call.map(x, "x");
    const MapShape other = call.map(second, "second");
    call.require(other.batch == problem.shape.batch && other.height == problem.shape.height &&
                     other.width == problem.shape.width,
                 "second must have the batch, height and width of x");
    require_weight(call, weight, problem.shape.channels + other.channels, 1);
    problem.x = x.floats();
    problem.second = second.floats();
    problem.second_channels = other.channels;
    problem.out_channels = weight.dims[0];
    problem.bias = call.vector(call.input(3), "bias", problem.out_channels, false);
    problem.y = call.output({other.batch, problem.out_channels, other.height, other.width});
    const std::shared_ptr<const void> packed = packed_.get(weight, constant_);
    call.finish(packed &&
                floats_.pointwise->run(problem, packed.get(), precision_, call.parallel()));
  }

  const Api& api;

 private:
  const FloatKernels& floats_;
  Precision precision_;
  bool constant_;
  PackedFloats<PointwiseKernel> packed_;
};

struct FreeScratch {
  void operator()(float* memory) const { free_run_scratch(memory); }
};
using ScratchMap = std::unique_ptr<float, FreeScratch>;

ScratchMap scratch_map(int64_t floats) {
  return ScratchMap(static_cast<float*>(run_scratch(static_cast<size_t>(floats) * sizeof(float))));
}

// Inputs x, scale, bias, qkv, out_weight, out_bias.
class Attention {
 public:
  static constexpr const char* kName = "Attention";
  static constexpr size_t kInputs = 6, kRequired = 6;
  static constexpr unsigned kIntegers = 0;
  static constexpr int kChannels = kChannelsOfX;
  static constexpr Size kSize = Size::kSame;

  Attention(const Api& api, const KernelInfo* info)
      : api(api),
        floats_(kernels_or_refuse(api)),
        precision_(read_precision(api, info, kName)),
        groups_(integer_attribute(api, info, "groups")),
        qkv_(*floats_.pointwise, precision_),
        out_(*floats_.pointwise, precision_) {
    const Tensor qkv = constant_input(api, info, 3), out = constant_input(api, info, 4);
    qkv_constant_ = qkv.data != nullptr;
    out_constant_ = out.data != nullptr;
    if (qkv_constant_ && qkv.dims.size() == 4) qkv_.get(qkv, true);
    if (out_constant_ && out.dims.size() == 4) out_.get(out, true);
  }

  void compute(Call& call) {
    const Tensor x = call.input(0), qkv = call.input(3), out = call.input(4);
    const MapShape map = call.map(x, "x");
    const int64_t c = map.channels, positions = map.height * map.width;
    require_weight(call, qkv, c, 1);
    require_weight(call, out, c, 1);
    call.require(qkv.dims[0] == 3 * c && out.dims[0] == c,
                 "qkv must have three times as many output channels as x, out_weight as many as x");
    const Norm norm = read_norm(call, groups_, c);
    const float* bias = call.vector(call.input(5), "out_bias", c, false);
    float* y = call.output(x.dims);
    const ScratchMap normal = scratch_map(map.batch * c * positions);
    const ScratchMap thirds = scratch_map(map.batch * 3 * c * positions);
    const std::shared_ptr<const void> packed_qkv = qkv_.get(qkv, qkv_constant_);
    const std::shared_ptr<const void> packed_out = out_.get(out, out_constant_);
    bool done = normal && thirds && packed_qkv && packed_out;

    std::vector<float> affine(static_cast<size_t>(map.batch * c * 2));
    done = done && floats_.norm->affine(x.floats(), map, norm, affine.data(), call.parallel());
    for (int64_t i = 0; done && i < map.batch * c; ++i) {
      floats_.norm->affine_map(x.floats() + i * positions, affine[2 * i], affine[2 * i + 1],
                               static_cast<size_t>(positions), normal.get() + i * positions);
    }
    PointwiseProblem project{};
    project.shape = map;
    project.x = normal.get();
    project.out_channels = 3 * c;
    project.y = thirds.get();
    done = done && floats_.pointwise->run(project, packed_qkv.get(), precision_, call.parallel());
    const AttentionProblem attend = {map.batch, c, positions, thirds.get(), normal.get()};
    done = done && floats_.attention->run(attend, precision_, call.parallel());
    PointwiseProblem mix{};
    mix.shape = map;
    mix.x = normal.get();
    mix.out_channels = c;
    mix.bias = bias;
    mix.skip = x.floats();
    mix.y = y;
    done = done && floats_.pointwise->run(mix, packed_out.get(), precision_, call.parallel());
    call.finish(done);
  }

  const Api& api;

 private:
  const FloatKernels& floats_;
  Precision precision_;
  int64_t groups_;
  bool qkv_constant_, out_constant_;
  PackedFloats<PointwiseKernel> qkv_, out_;
};

}  // namespace

CustomOps attention_ops(const Api& api, bool infers_shapes) {
  return {registered<PairConv>(api, infers_shapes), registered<Attention>(api, infers_shapes)};
}

}  // namespace bidiff::ort
