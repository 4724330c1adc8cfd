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

// Transposes a matrix (size, size).
std::vector<float> transposed(const float* matrix, int64_t size) {
  std::vector<float> result(static_cast<size_t>(size * size));
  for (int64_t i = 0; i < size * size; ++i) {
    result[static_cast<size_t>(i % size * size + i / size)] = matrix[i];
  }
  return result;
}

// Inputs x, scale, bias, qkv, out_weight, out_bias.
//
// With n = GroupNorm(x), scores are (Q n)^T K n = (K^T Q n)^T n, and out_weight mixes V n into
// (out_weight V) n. Both products of weights are made once, so two of the four products of weights
// with n are left: n itself is the key, and what is mixed is the output.
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
        groups_(integer_attribute(api, info, "groups")) {
    const Tensor qkv = constant_input(api, info, 3), out = constant_input(api, info, 4);
    if (qkv.data && out.data && out.dims.size() == 4 && out.dims[0] >= 1 &&
        out.dims == Dims{out.dims[0], out.dims[0], 1, 1} &&
        qkv.dims == Dims{3 * out.dims[0], out.dims[0], 1, 1}) {
      folded_ = fold(qkv, out);
    }
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
    const ScratchMap query_value = scratch_map(map.batch * 2 * c * positions);
    const std::shared_ptr<const void> folded = folded_ ? folded_ : fold(qkv, out);
    bool done = normal && query_value && folded;

    std::vector<float> affine(static_cast<size_t>(map.batch * c * 2));
    done = done && floats_.norm->affine(x.floats(), map, norm, affine.data(), call.parallel());
    for (int64_t i = 0; done && i < map.batch * c; ++i) {
      floats_.norm->affine_map(x.floats() + i * positions, affine[2 * i], affine[2 * i + 1],
                               static_cast<size_t>(positions), normal.get() + i * positions);
    }
    PointwiseProblem project{};
    project.shape = map;
    project.x = normal.get();
    project.out_channels = 2 * c;
    project.y = query_value.get();
    done = done && floats_.pointwise->run(project, folded.get(), precision_, call.parallel());
    const AttentionProblem attend = {map.batch,    c,    positions,  query_value.get(),
                                     normal.get(), bias, x.floats(), y};
    done = done && floats_.attention->run(attend, precision_, call.parallel());
    call.finish(done);
  }

  const Api& api;

 private:
  // K^T Q and out_weight V as one weight (2C, C) in the kernel's form; null when memory is short.
  std::shared_ptr<const void> fold(const Tensor& qkv, const Tensor& out) const {
    const int64_t c = out.dims[0], size = c * c;
    const float *q = qkv.floats(), *k = q + size, *v = k + size;
    std::vector<float> both(static_cast<size_t>(2 * size));
    if (!multiply(transposed(k, c).data(), q, c, both.data()) ||
        !multiply(out.floats(), v, c, both.data() + size)) {
      return nullptr;
    }
    return packed(both.data(), 2 * c, c, precision_);
  }

  // The product of two matrices (size, size): a 1x1 convolution of the columns of the second one.
  bool multiply(const float* first, const float* second, int64_t size, float* product) const {
    const std::shared_ptr<const void> weight = packed(first, size, size, Precision::kFloat32);
    PointwiseProblem problem{};
    problem.shape = {1, size, 1, size};
    problem.x = second;
    problem.out_channels = size;
    problem.y = product;
    return weight && floats_.pointwise->run(problem, weight.get(), Precision::kFloat32, Parallel{});
  }

  std::shared_ptr<const void> packed(const float* weight, int64_t rows, int64_t columns,
                                     Precision precision) const {
    const PointwiseKernel& kernel = *floats_.pointwise;
    std::shared_ptr<void> memory(run_scratch(kernel.packed_bytes(rows, columns, precision)),
                                 free_run_scratch);
    if (memory) kernel.pack(weight, rows, columns, precision, memory.get());
    return memory;
  }

  const FloatKernels& floats_;
  Precision precision_;
  int64_t groups_;
  std::shared_ptr<const void> folded_;  // of constant weights
};

}  // namespace

CustomOps attention_ops(const Api& api, bool infers_shapes) {
  return {registered<PairConv>(api, infers_shapes), registered<Attention>(api, infers_shapes)};
}

}  // namespace bidiff::ort
