// bidiff::BinaryConv, NormBinaryConv and GroupNormSwish on CUDA.
#include "cuda_node.h"

namespace bidiff::ort {
namespace {

void describe(const MapShape& map, cuda::Problem* problem) {
  problem->batch = map.batch;
  problem->channels = map.channels;
  problem->height = map.height;
  problem->width = map.width;
}

// Inputs 1 and 2 as the scale and bias of a GroupNorm.
void read_norm(const Call& call, int64_t groups, cuda::Problem* problem) {
  call.require(groups >= 1 && problem->channels % groups == 0,
               "groups " + std::to_string(groups) + " must divide the " +
                   std::to_string(problem->channels) + " channels of x");
  problem->groups = groups;
  problem->scale = device_pointer(call.vector(call.input(1), "scale", problem->channels, false));
  problem->bias = device_pointer(call.vector(call.input(2), "bias", problem->channels, false));
}

void read_time(const Call& call, const Tensor& time, int64_t channels, cuda::Problem* problem) {
  if (!time.data) return;
  problem->time = device_pointer(call.vector(time, "time", channels, true));
  problem->time_is_scalar = time.is_scalar();
}

// Inputs x, words, alpha, threshold, rprelu, residual, time.
class BinaryConv {
 public:
  static constexpr const char* kName = "BinaryConv";
  static constexpr size_t kInputs = 7, kRequired = 3;
  static constexpr unsigned kIntegers = 1 << 1, kMaps = 1 << 0 | 1 << 5;
  static constexpr int kChannels = 1;
  static constexpr Size kSize = Size::kSame;

  BinaryConv(const Api& api, const KernelInfo* info) : api(api), branch_(api, info, 1) {}

  void run(Call& call, cuda::Element element) {
    const Tensor x = call.input(0), residual = call.input(5);
    cuda::Problem problem{};
    problem.op = cuda::Op::kBinaryConv;
    problem.element = element;
    describe(call.map(x, "x"), &problem);
    const Shape shape = branch_.read(call, x.dims, 0, &problem);
    problem.out_channels = shape.out_channels;
    problem.x = device_pointer(x.data);
    if (residual.data) {
      call.require(check_residual(residual.dims, shape));
      problem.residual = device_pointer(residual.data);
      problem.residual_is_scalar = residual.is_scalar();
    }
    read_time(call, call.input(6), shape.out_channels, &problem);
    problem.y = device_pointer(
        call.output_data({shape.batch, shape.out_channels, shape.height, shape.width}));
    runner_.run(call, problem, {{&branch_, weights_of(shape)}});
  }

  const Api& api;

 private:
  CudaBranch branch_;
  CudaRunner runner_;
};

// Inputs x, scale, bias, words, alpha, threshold, rprelu, time, skip.
class NormBinaryConv {
 public:
  static constexpr const char* kName = "NormBinaryConv";
  static constexpr size_t kInputs = 9, kRequired = 9;
  static constexpr unsigned kIntegers = 1 << 3, kMaps = 1 << 0 | 1 << 8;
  static constexpr int kChannels = kChannelsOfX;
  static constexpr Size kSize = Size::kSame;

  NormBinaryConv(const Api& api, const KernelInfo* info)
      : api(api), groups_(integer_attribute(api, info, "groups")), branch_(api, info, 3) {}

  void run(Call& call, cuda::Element element) {
    const Tensor x = call.input(0), skip = call.input(8);
    cuda::Problem problem{};
    problem.op = cuda::Op::kNormBinaryConv;
    problem.element = element;
    describe(call.map(x, "x"), &problem);
    const Shape shape = branch_.read(call, x.dims, 0, &problem);
    call.require(shape.out_channels == problem.channels,
                 "words must have as many output channels as x has channels");
    problem.out_channels = shape.out_channels;
    read_norm(call, groups_, &problem);
    read_time(call, call.input(7), problem.channels, &problem);
    // A skip of one element is 0 by contract; it is on the GPU and is not read.
    if (!skip.is_scalar() || skip.dims == x.dims) {
      call.require(skip.dims == x.dims, "skip must have the shape of x or one element");
      problem.skip = device_pointer(skip.data);
    }
    problem.x = device_pointer(x.data);
    problem.y = device_pointer(call.output_data(x.dims));
    runner_.run(call, problem, {{&branch_, weights_of(shape)}});
  }

  const Api& api;

 private:
  int64_t groups_;
  CudaBranch branch_;
  CudaRunner runner_;
};

// Inputs x, scale, bias.
class GroupNormSwish {
 public:
  static constexpr const char* kName = "GroupNormSwish";
  static constexpr size_t kInputs = 3, kRequired = 3;
  static constexpr unsigned kIntegers = 0, kMaps = 1 << 0;
  static constexpr int kChannels = kChannelsOfX;
  static constexpr Size kSize = Size::kSame;

  GroupNormSwish(const Api& api, const KernelInfo* info)
      : api(api), groups_(integer_attribute(api, info, "groups")) {}

  void run(Call& call, cuda::Element element) {
    const Tensor x = call.input(0);
    cuda::Problem problem{};
    problem.op = cuda::Op::kGroupNormSwish;
    problem.element = element;
    describe(call.map(x, "x"), &problem);
    read_norm(call, groups_, &problem);
    problem.x = device_pointer(x.data);
    problem.y = device_pointer(call.output_data(x.dims));
    runner_.run(call, problem, {});
  }

  const Api& api;

 private:
  int64_t groups_;
  CudaRunner runner_;
};

}  // namespace

void add_cuda_layers(const Api& api, bool infers_shapes, CustomOps* ops) {
  add_both<BinaryConv>(api, infers_shapes, ops);
  add_both<NormBinaryConv>(api, infers_shapes, ops);
  add_both<GroupNormSwish>(api, infers_shapes, ops);
}

}  // namespace bidiff::ort
