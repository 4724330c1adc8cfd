// What follows the sum, for a run of 8 pixels of one channel, in the order and with the roundings
// of the op contract; and where the operators store it.
#pragma once

#include "norm.h"
#include "path.h"
#include "place.h"

namespace bidiff::cuda {
namespace {

enum class Kind { kBinaryConv, kNormBinaryConv, kBinaryFusion, kBinaryDown, kBinaryUp };

template <Kind kKind>
constexpr bool kSumsBranches = kKind == Kind::kBinaryFusion || kKind == Kind::kBinaryDown;

// A thread's run in the image.
struct PixelRun {
  int image, y, x;
  int count;     // of pixels inside the image: 8 or fewer, 0 or less for none
  bool aligned;  // all 8 are inside, and vectors may be used
};

BIDIFF_DEVICE PixelRun own_run(const ConvArguments& arguments, const Place& place) {
  const Pixel pixel = run_of(arguments.map, place.lane_column);
  PixelRun run;
  run.image = place.image;
  run.y = place.tile_y + pixel.y;
  run.x = place.tile_x + pixel.x;
  run.count = run.y < arguments.map.height ? arguments.map.width - run.x : 0;
  if (run.count > kRun) run.count = kRun;
  run.aligned = arguments.aligned && run.count == kRun;
  return run;
}

// Values of a map at the run; zeros outside.
template <class Element>
BIDIFF_DEVICE void read_run(const ConvArguments& arguments, const PixelRun& run,
                            const Element* plane, float (&values)[kRun]) {
  const Element* from = plane + (run.y * arguments.map.width + run.x);
  if (run.aligned) {
    load_run(from, values);
  } else {
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = i < run.count ? to_float(load(from + i)) : 0.0f;
  }
}

// From counts to sums, see prepare.h. `boxes`: ones under the taps of each pixel.
template <class Path>
BIDIFF_DEVICE void find_sums(const ConvArguments& arguments, const ConvBranch& branch,
                             const PixelRun& run, int channel, const unsigned* boxes,
                             int (&sums)[kRun]) {
  const Geometry& map = arguments.map;
  const unsigned short* ones = at<const unsigned short>(branch.ones) + channel;
  int inside = arguments.taps * arguments.in_channels, left = 0, right = 0;
  const int last = map.width - 1 - run.x;  // index in the run of the map's last column
  if (Path::kSubtractsOnes) {
    inside -= 2 * (map.halo ? load(at<const int>(branch.totals) + channel)
                            : static_cast<int>(load(ones)));
  }
  if (map.halo) {
    const auto outside = [&](int tap) {  // what a tap outside the image adds
      return 2 * static_cast<int>(load(ones + tap * arguments.padded_channels)) -
             arguments.in_channels;
    };
    for (int row = 0; row < 3; ++row) {
      if ((row == 0 && run.y == 0) || (row == 2 && run.y == map.height - 1)) {
        for (int column = 0; column < 3; ++column) inside += outside(3 * row + column);
      } else {
        if (run.x == 0) left += outside(3 * row);
        if (last < kRun) right += outside(3 * row + 2);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    sums[i] = inside + (i == 0 ? left : 0) + (i == last ? right : 0) + Path::kScale * sums[i];
    if (Path::kCountsPixels) sums[i] -= 2 * static_cast<int>(boxes[i]);
  }
}

// Values of the run from its sums: alpha, RPReLU, residual, time and skip.
template <class Element, Kind kKind>
BIDIFF_DEVICE void finish(const ConvArguments& arguments, const ConvBranch& branch,
                          const PixelRun& run, int channel, const int (&sums)[kRun],
                          float (&values)[kRun]) {
  const float alpha = load(at<const float>(branch.alpha) + channel);
#pragma unroll
  for (int i = 0; i < kRun; ++i) values[i] = multiply(alpha, static_cast<float>(sums[i]));
  if (branch.rprelu) {
    const float* rprelu = at<const float>(branch.rprelu) + channel;
    const float shift_in = load(rprelu), slope = load(rprelu + arguments.channels);
    const float shift_out = load(rprelu + 2ll * arguments.channels);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const float y = add(values[i], shift_in);
      values[i] = add(y < 0.0f ? multiply(slope, y) : y, shift_out);
    }
  }
  if (kKind != Kind::kBinaryConv || arguments.has_residual) {
    float residual[kRun];
    read_run(arguments, run,
             plane_of<Element>(branch.residual, run.image, channel, arguments.plane), residual);
    if (kKind == Kind::kNormBinaryConv) {
      const float* pair = at<const float>(arguments.affine) +
                          2 * (static_cast<long long>(run.image) * arguments.channels + channel);
      const Affine affine{load(pair), load(pair + 1)};
#pragma unroll
      for (int i = 0; i < kRun; ++i) residual[i] = swish(residual[i], affine);
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = add(values[i], residual[i]);
  } else if (arguments.scalar) {
    const float residual = to_float(load(at<const Element>(arguments.scalar)));
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = add(values[i], residual);
  }
  if (kKind != Kind::kBinaryConv && kKind != Kind::kNormBinaryConv) return;
  if (arguments.time) {
    const float time = load(at<const float>(arguments.time) + arguments.time_stride * channel);
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = add(values[i], time);
  }
  if (kKind == Kind::kNormBinaryConv && arguments.skip) {
    float skip[kRun];
    read_run(
        arguments, run,
        at<const Element>(arguments.skip) +
            (static_cast<long long>(run.image) * arguments.channels + channel) * arguments.plane,
        skip);
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = add(values[i], skip[i]);
  }
}

}  // namespace
}  // namespace bidiff::cuda
