// bidiff::BinaryFusion, BinaryDown and BinaryUp on CUDA: two binary convolutions each.
#include "cuda_node.h"

namespace bidiff::ort {
namespace {

// What the three have in common. The convolutions keep their number of channels.
template <int kMapCount>
class TwoBranches : public TwoBranchInputs<kMapCount> {
 public:
  TwoBranches(const Api& api, const KernelInfo* info)
      : api(api), first_(api, info, kMapCount), second_(api, info, kMapCount + 4) {}

  const Api& api;

 protected:
  // x and both branches, each with `in_channels` channels.
  cuda::Problem problem(const Call& call, cuda::Op op, cuda::Element element, const Tensor& x,
                        const MapShape& map, int64_t in_channels) {
    cuda::Problem problem{};
    problem.op = op;
    problem.element = element;
    problem.batch = map.batch;
    problem.channels = map.channels;
    problem.height = map.height;
    problem.width = map.width;
    problem.x = device_pointer(x.data);
    const Dims dims = {map.batch, in_channels, map.height, map.width};
    int64_t size = 0;
    for (CudaBranch* branch : {&first_, &second_}) {
      const Shape shape = branch->read(call, dims, branch == &second_, &problem);
      call.require(shape.out_channels == in_channels,
                   "words must have as many output channels as input channels");
      call.require(branch == &first_ || shape.kernel == size,
                   "the words of both branches must have the same kernel size");
      size = shape.kernel;
    }
    return problem;
  }

  // For branches that were read with `in_channels` channels each.
  void finish(Call& call, cuda::Problem* problem, int64_t in_channels, const Dims& dims) {
    problem->y = device_pointer(call.output_data(dims));
    const cuda::Weights weights = {in_channels, in_channels, problem->k};
    runner_.run(call, *problem, {{&first_, weights}, {&second_, weights}});
  }

 private:
  CudaBranch first_, second_;
  CudaRunner runner_;
};

class BinaryFusion : public TwoBranches<2> {
 public:
  static constexpr const char* kName = "BinaryFusion";
  static constexpr int kChannels = kChannelsOfX;
  static constexpr Size kSize = Size::kSame;

  using TwoBranches::TwoBranches;

  void run(Call& call, cuda::Element element) {
    const Tensor x = call.input(0), skip = call.input(1);
    const MapShape map = call.map(x, "x");
    call.require(skip.dims == x.dims, "skip must have the shape of x");
    call.require(map.channels % 2 == 0, "x must have an even number of channels");
    cuda::Problem both = problem(call, cuda::Op::kBinaryFusion, element, x, map, map.channels);
    both.second = device_pointer(skip.data);
    finish(call, &both, map.channels, x.dims);
  }
};

class BinaryDown : public TwoBranches<1> {
 public:
  static constexpr const char* kName = "BinaryDown";
  static constexpr int kChannels = kTwiceOfX;
  static constexpr Size kSize = Size::kHalf;

  using TwoBranches::TwoBranches;

  void run(Call& call, cuda::Element element) {
    const Tensor x = call.input(0);
    const MapShape map = call.map(x, "x");
    call.require(map.channels % 2 == 0 && map.height % 2 == 0 && map.width % 2 == 0,
                 "channels, height and width of x must be even");
    cuda::Problem both = problem(call, cuda::Op::kBinaryDown, element, x, map, map.channels / 2);
    finish(call, &both, map.channels / 2,
           {map.batch, map.channels * 2, map.height / 2, map.width / 2});
  }
};

class BinaryUp : public TwoBranches<1> {
 public:
  static constexpr const char* kName = "BinaryUp";
  static constexpr int kChannels = kHalfOfX;
  static constexpr Size kSize = Size::kDouble;

  using TwoBranches::TwoBranches;

  void run(Call& call, cuda::Element element) {
    const Tensor x = call.input(0);
    const MapShape map = call.map(x, "x");
    call.require(map.channels % 2 == 0, "the channels of x must be even");
    cuda::Problem both = problem(call, cuda::Op::kBinaryUp, element, x, map, map.channels);
    finish(call, &both, map.channels, {map.batch, map.channels / 2, map.height * 2, map.width * 2});
  }
};

}  // namespace

void add_cuda_blocks(const Api& api, bool infers_shapes, CustomOps* ops) {
  add_both<BinaryFusion>(api, infers_shapes, ops);
  add_both<BinaryDown>(api, infers_shapes, ops);
  add_both<BinaryUp>(api, infers_shapes, ops);
}

}  // namespace bidiff::ort
