// bidiff::BinaryFusion, BinaryDown and BinaryUp: two binary convolutions each, whose inputs are
// channels picked from whole maps and whose outputs are stored where a shuffle would put them.
#include <vector>

#include "binary_branch.h"
#include "op.h"

namespace bidiff::ort {
namespace {

using Planes = std::vector<const float*>;

// Memory for a convolution's output that no other node sees; null when memory is short.
std::shared_ptr<float> scratch_map(const Shape& shape) {
  const int64_t count = shape.batch * shape.out_channels * shape.height * shape.width;
  return std::shared_ptr<float>(
      static_cast<float*>(run_scratch(static_cast<size_t>(count) * sizeof(float))),
      free_run_scratch);
}

// What the three have in common. A branch sees the channels of x divided by `kParts`.
template <int kMapCount, int kParts>
class TwoBranches : public TwoBranchInputs<kMapCount> {
 public:
  TwoBranches(const Api& api, const KernelInfo* info)
      : api(api),
        first_(api, info, kernel_or_refuse(api), kMapCount, channels(api, info)),
        second_(api, info, kernel_or_refuse(api), kMapCount + 4, channels(api, info)) {}

  const Api& api;

 protected:
  // The branch's problem on `planes` of x; the residual is the input itself.
  Problem problem(const Call& call, bool second, const MapShape& map, int64_t in_channels,
                  const Planes& planes) const {
    Problem problem{};
    (second ? second_ : first_)
        .read(call, {map.batch, in_channels, map.height, map.width}, &problem);
    call.require(problem.shape.out_channels == in_channels,
                 "words must have as many output channels as input channels");
    problem.planes = planes.data();
    problem.residual_is_input = true;
    return problem;
  }

  static int64_t channels(const Api& api, const KernelInfo* info) {
    const Dims dims = input_dims(api, info, 0);
    return dims.size() == 4 ? dims[1] / kParts : 0;
  }

  BinaryBranch first_, second_;
};

// CS-Fusion. Inputs x, skip, then words, alpha, threshold, rprelu of both branches: branch 1 sees
// the odd channels of x and the even ones of skip, branch 2 the even ones of x and the odd ones of
// skip; their outputs are added.
class BinaryFusion : public TwoBranches<2, 1> {
 public:
  static constexpr const char* kName = "BinaryFusion";
  static constexpr int kChannels = kChannelsOfX;
  static constexpr Size kSize = Size::kSame;

  using TwoBranches::TwoBranches;

  void compute(Call& call) {
    const Tensor x = call.input(0), skip = call.input(1);
    const MapShape map = call.map(x, "x");
    call.require(skip.dims == x.dims, "skip must have the shape of x");
    call.require(map.channels % 2 == 0, "x must have an even number of channels");
    const Planes odd = pick(map, x.floats(), 1, skip.floats(), 0);
    const Planes even = pick(map, x.floats(), 0, skip.floats(), 1);
    Problem one = problem(call, false, map, map.channels, odd);
    Problem two = problem(call, true, map, map.channels, even);
    one.y = two.y = call.output(x.dims);
    two.skip = one.y;
    call.finish(first_.run(call, one) && second_.run(call, two));
  }

 private:
  static Planes pick(const MapShape& map, const float* x, int64_t x_start, const float* skip,
                     int64_t skip_start) {
    const int64_t plane = map.height * map.width;
    Planes planes;
    for (int64_t image = 0; image < map.batch; ++image) {
      const int64_t base = image * map.channels;
      for (int64_t c = x_start; c < map.channels; c += 2) planes.push_back(x + (base + c) * plane);
      for (int64_t c = skip_start; c < map.channels; c += 2) {
        planes.push_back(skip + (base + c) * plane);
      }
    }
    return planes;
  }
};

// CP-Down: branch 1 sees the first half of x's channels, branch 2 the second; PixelUnshuffle(2) of
// their sum.
class BinaryDown : public TwoBranches<1, 2> {
 public:
  static constexpr const char* kName = "BinaryDown";
  static constexpr int kChannels = kTwiceOfX;
  static constexpr Size kSize = Size::kHalf;

  using TwoBranches::TwoBranches;

  void compute(Call& call) {
    const Tensor x = call.input(0);
    const MapShape map = call.map(x, "x");
    call.require(map.channels % 2 == 0 && map.height % 2 == 0 && map.width % 2 == 0,
                 "channels, height and width of x must be even");
    const int64_t half = map.channels / 2, plane = map.height * map.width;
    Planes planes[2];
    for (int64_t i = 0; i < map.batch * map.channels; ++i) {
      planes[i % map.channels / half].push_back(x.floats() + i * plane);
    }
    Problem one = problem(call, false, map, half, planes[0]);
    Problem two = problem(call, true, map, half, planes[1]);
    const std::shared_ptr<float> between = scratch_map(one.shape);
    one.y = between.get();
    two.skip = between.get();
    two.store = Store::kUnshuffle;
    two.y = call.output({map.batch, map.channels * 2, map.height / 2, map.width / 2});
    call.finish(between && first_.run(call, one) && second_.run(call, two));
  }
};

// PixelShuffle(2) of one image (4C, H, W).
void pixel_shuffle(const float* from, int64_t planes, int64_t height, int64_t width, float* to) {
  for (int64_t i = 0; i < planes * height; ++i) {
    const int64_t plane = i / height, y = i % height, position = plane % 4;
    float* row = to + ((plane / 4 * height + y) * 2 + position / 2) * 2 * width + position % 2;
    for (int64_t x = 0; x < width; ++x) row[2 * x] = from[i * width + x];
  }
}

// CP-Up: both branches see x; PixelShuffle(2) of their outputs, the channels of branch 1 before
// those of branch 2.
class BinaryUp : public TwoBranches<1, 1> {
 public:
  static constexpr const char* kName = "BinaryUp";
  static constexpr int kChannels = kHalfOfX;
  static constexpr Size kSize = Size::kDouble;

  using TwoBranches::TwoBranches;

  void compute(Call& call) {
    const Tensor x = call.input(0);
    const MapShape map = call.map(x, "x");
    call.require(map.channels % 2 == 0, "the channels of x must be even");
    const int64_t plane = map.height * map.width, size = map.channels * plane;
    float* y = call.output({map.batch, map.channels / 2, map.height * 2, map.width * 2});
    // Four channels of a branch make one of the output. If their number is not a multiple of four,
    // one output channel takes channels of both branches, so the output is assembled once both are
    // computed.
    const bool whole = map.channels % 4 == 0;
    const std::shared_ptr<float> both =
        whole ? nullptr : scratch_map({1, 0, map.channels * 2, 1, map.height, map.width});
    if (!whole && !both) call.finish(false);
    bool done = true;
    for (int64_t image = 0; done && image < map.batch; ++image) {
      Planes planes;
      for (int64_t c = 0; c < map.channels; ++c) {
        planes.push_back(x.floats() + (image * map.channels + c) * plane);
      }
      const MapShape one_image = {1, map.channels, map.height, map.width};
      for (int branch = 0; done && branch < 2; ++branch) {
        Problem part = problem(call, branch == 1, one_image, map.channels, planes);
        part.store = whole ? Store::kShuffle : Store::kPlain;
        part.y = whole ? y + (image * 2 + branch) * size : both.get() + branch * size;
        done = (branch ? second_ : first_).run(call, part);
      }
      if (!whole) {
        pixel_shuffle(both.get(), map.channels * 2, map.height, map.width, y + image * 2 * size);
      }
    }
    call.finish(done);
  }
};

}  // namespace

CustomOps binary_block_ops(const Api& api, bool infers_shapes) {
  return {registered<BinaryFusion>(api, infers_shapes), registered<BinaryDown>(api, infers_shapes),
          registered<BinaryUp>(api, infers_shapes)};
}

}  // namespace bidiff::ort
