// One block of a convolution operator: 32 output channels of 128 pixels.
#pragma once

#include "popc.h"
#include "store.h"
#include "tile.h"

namespace bidiff::cuda {
namespace {

// A thread's runs of 8 pixels: two tiles of 16 channels, in two halves.
constexpr int kRuns = 2 * kTiles;
using Values = float[kRuns][kRun];

// Moves every run one place forward. Runs are taken from the front, one after the other: registers
// cannot be indexed, and four copies of the code would be four times the instructions to fetch.
template <class T>
BIDIFF_DEVICE void advance(T (&runs)[kRuns][kRun]) {
#pragma unroll
  for (int i = 0; i < (kRuns - 1) * kRun; ++i) {
    runs[i / kRun][i % kRun] = runs[i / kRun + 1][i % kRun];
  }
}

// Turns a branch's counts into outputs and stores them unless another branch follows. `held`
// contains the values of the previous branch.
template <class Element, class Path, Kind kKind>
BIDIFF_DEVICE void finish_branch(const ConvArguments& arguments, const Place& place,
                                 const PixelRun& run, int index, const Counts& counts,
                                 const unsigned* boxes, Values& held) {
  const ConvBranch& branch = arguments.branch[index];
  int sums[kRuns][kRun];
#pragma unroll
  for (int i = 0; i < kRuns * kRun; ++i) {
    const int part = i / kRun, pixel = i % kRun;
    sums[part][pixel] = counts[part / 2][pixel / 2][part % 2 * 2 + pixel % 2];
  }
#pragma unroll 1
  for (int part = 0; part < kRuns; ++part) {
    const int channel = channel_of(place, part / 2, part % 2);
    const bool valid = channel < arguments.channels && run.count > 0;
    float values[kRun] = {};
    if (valid) {
      find_sums<Path>(arguments, branch, run, channel, boxes, sums[0]);
      finish<Element, kKind>(arguments, branch, run, channel, sums[0], values);
    }
    advance(sums);
    if (kKind == Kind::kBinaryUp) {
      store_shuffled<Element>(arguments, place, run, channel, valid, values);
    } else if (!kSumsBranches<kKind>) {
      if (valid) store_plain<Element>(arguments, run, channel, values);
    } else {
      float sum[kRun];
#pragma unroll
      for (int i = 0; i < kRun; ++i) sum[i] = add(values[i], held[0][i]);
      advance(held);
      if (index == 0) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) held[kRuns - 1][i] = values[i];
      } else if (valid && kKind == Kind::kBinaryDown) {
        store_unshuffled<Element>(arguments, run, channel, sum);
      } else if (valid) {
        store_plain<Element>(arguments, run, channel, sum);
      }
    }
  }
}

BIDIFF_DEVICE void clear(Counts& counts) {
#pragma unroll
  for (int i = 0; i < kTiles * kColumns * 4; ++i) counts[i / 16][i / 4 % 4][i % 4] = 0;
}

template <class Element, Kind kKind>
BIDIFF_DEVICE void popc_conv(const ConvArguments& arguments) {
  const Place place = place_of(arguments);
  const PixelRun run = own_run(arguments, place);
  Values held = {};
  const int branches = kSumsBranches<kKind> ? 2 : 1;
  for (int branch = place.branch; branch < place.branch + branches; ++branch) {
    Counts counts;
    clear(counts);
    count_branch(arguments, place, arguments.branch[branch], counts);
    finish_branch<Element, PopcPath, kKind>(arguments, place, run, branch, counts, nullptr, held);
  }
}

// Stages are the slabs of all branches, one after the other: while one is multiplied, the next is
// being copied.
template <class Element, class Path, Kind kKind>
BIDIFF_DEVICE void conv(const ConvArguments& arguments) {
  const Place place = place_of(arguments);
  const PixelRun run = own_run(arguments, place);
  const int k = 1 + 2 * arguments.map.halo;
  const StageLayout layout =
      stage_layout(k, arguments.words, arguments.buffers, Path::kCountsPixels);
  const Pixel first = run_of(arguments.map, place.lane_column);
  const unsigned* boxes =
      shared_memory() + layout.boxes + first.y * arguments.map.tile_width + first.x;
#pragma unroll 1
  for (int i = thread_index(); i < halo_stride(arguments.map.halo); i += kConvThreads) {
    shared_memory()[layout.zero + i] = 0;
  }

  const int slabs = slab_count(k, arguments.words);
  const int stages = slabs * (kSumsBranches<kKind> ? 2 : 1);
  const int lead = arguments.buffers - 1;  // stages that are loaded ahead of the multiplication
  Counts counts;
  Values held = {};
  clear(counts);
  int branch = place.branch, slab = 0, next_branch = branch, next_slab = 0;
#pragma unroll 1
  for (int i = 0; i < stages + lead; ++i) {
    if (i < stages) {
      load_stage(arguments, place, layout, stage_of(arguments, next_branch, next_slab), i & lead);
      if (++next_slab == slabs) next_slab = 0, ++next_branch;
    }
    if (i < lead) continue;
    if (lead && i < stages) {
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    synchronize_block();
    const Stage stage = stage_of(arguments, branch, slab);
    const int buffer = (i - lead) & lead;
    if (Path::kCountsPixels) count_pixels(arguments, layout, stage, buffer);
    multiply_stage<Path>(arguments, place, layout, stage, buffer, counts);
    if (++slab == slabs) {
      if (Path::kCountsPixels) count_boxes(arguments, layout);
      finish_branch<Element, Path, kKind>(arguments, place, run, branch, counts, boxes, held);
      clear(counts);
      slab = 0;
      ++branch;
    }
    synchronize_block();
  }
}

}  // namespace
}  // namespace bidiff::cuda

// The kernels of a path: every operator, both elements. 4 blocks per multiprocessor leave a thread
// 128 registers, 3 leave it 168, for the operators that keep one branch's outputs for the next.
#define BIDIFF_CONV_KERNEL(name, blocks, ...)                                            \
  BIDIFF_KERNEL(name, bidiff::cuda::ConvArguments, bidiff::cuda::kConvThreads, blocks) { \
    using namespace bidiff::cuda;                                                        \
    __VA_ARGS__(arguments);                                                              \
  }
#define BIDIFF_CONV_KERNELS_OF(path, conv, element, Element)                                     \
  BIDIFF_CONV_KERNEL(bidiff_binary_conv_##path##_##element, 4, conv(Element, Kind::kBinaryConv)) \
  BIDIFF_CONV_KERNEL(bidiff_norm_binary_conv_##path##_##element, 4,                              \
                     conv(Element, Kind::kNormBinaryConv))                                       \
  BIDIFF_CONV_KERNEL(bidiff_binary_fusion_##path##_##element, 3,                                 \
                     conv(Element, Kind::kBinaryFusion))                                         \
  BIDIFF_CONV_KERNEL(bidiff_binary_down_##path##_##element, 3, conv(Element, Kind::kBinaryDown)) \
  BIDIFF_CONV_KERNEL(bidiff_binary_up_##path##_##element, 4, conv(Element, Kind::kBinaryUp))
#define BIDIFF_CONV_KERNELS(path, conv)          \
  BIDIFF_CONV_KERNELS_OF(path, conv, f32, float) \
  BIDIFF_CONV_KERNELS_OF(path, conv, f16, Half)
