// One block of a convolution operator: 32 output channels of 128 pixels.
#pragma once

#include "popc.h"
#include "store.h"
#include "tile.h"

namespace bidiff::cuda {
namespace {

// A thread's runs of 8 pixels: two tiles of 16 channels, in two halves.
using Values = float[kTiles][2][kRun];

// From the counts of a branch to outputs, stored unless another branch follows. `values` holds what
// the branch before gave.
template <class Element, class Path, Kind kKind>
BIDIFF_DEVICE void finish_branch(const ConvArguments& arguments, const Place& place,
                                 const Run& run, int index, const Counts& counts,
                                 const unsigned* boxes, Values& held) {
  const ConvBranch& branch = arguments.branch[index];
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int channel = channel_of(place, m, half);
      const bool valid = channel < arguments.channels && run.count > 0;
      float values[kRun] = {};
      if (valid) {
        int sums[kRun];
#pragma unroll
        for (int i = 0; i < kRun; ++i) sums[i] = counts[m][i / 2][2 * half + i % 2];
        find_sums<Path>(arguments, branch, run, channel, boxes, sums);
        finish<Element, kKind>(arguments, branch, run, channel, sums, values);
      }
      if (kSumsBranches<kKind> && index == 0) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) held[m][half][i] = values[i];
      } else if (kKind == Kind::kBinaryUp) {
        store_shuffled<Element>(arguments, place, run, channel, valid, values);
      } else if (valid) {
        if (kSumsBranches<kKind>) {
#pragma unroll
          for (int i = 0; i < kRun; ++i) values[i] = add(values[i], held[m][half][i]);
        }
        if (kKind == Kind::kBinaryDown) {
          store_unshuffled<Element>(arguments, run, channel, values);
        } else {
          store_plain<Element>(arguments, run, channel, values);
        }
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
  const Run run = own_run(arguments, place);
  Values held;
  const int branches = kSumsBranches<kKind> ? 2 : 1;
  for (int branch = place.branch; branch < place.branch + branches; ++branch) {
    Counts counts;
    clear(counts);
    count_branch(arguments, place, arguments.branch[branch], counts);
    finish_branch<Element, PopcPath, kKind>(arguments, place, run, branch, counts, nullptr, held);
  }
}

// Stages are the slabs of all branches, one after the other: while one is multiplied, the copies
// of the next are under way.
template <class Element, class Path, Kind kKind>
BIDIFF_DEVICE void conv(const ConvArguments& arguments) {
  const Place place = place_of(arguments);
  const Run run = own_run(arguments, place);
  const int k = 1 + 2 * arguments.map.halo;
  const StageLayout layout =
      stage_layout(k, arguments.words, arguments.buffers, Path::kCountsPixels);
  const Pixel first = run_of(arguments.map, place.lane_column);
  const unsigned* boxes =
      shared_memory() + layout.boxes + first.y * arguments.map.tile_width + first.x;
  for (int i = thread_index(); i < halo_stride(arguments.map.halo); i += kConvThreads) {
    shared_memory()[layout.zero + i] = 0;
  }

  const int slabs = slab_count(k, arguments.words);
  const int last = place.branch + (kSumsBranches<kKind> ? 1 : 0);
  const bool ahead = arguments.buffers == 2;
  Counts counts;
  Values held;
  clear(counts);
  int buffer = 0;
  if (ahead) load_stage(arguments, place, layout, stage_of(arguments, place.branch, 0), 0);
  for (int branch = place.branch, slab = 0; branch <= last;) {
    const bool branch_ends = slab + 1 == slabs;
    const int next_branch = branch + branch_ends, next_slab = branch_ends ? 0 : slab + 1;
    const Stage stage = stage_of(arguments, branch, slab);
    if (!ahead) {
      load_stage(arguments, place, layout, stage, buffer);
      wait_copies<0>();
    } else if (next_branch <= last) {
      load_stage(arguments, place, layout, stage_of(arguments, next_branch, next_slab),
                 1 - buffer);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    synchronize_block();
    if (Path::kCountsPixels) count_pixels(arguments, layout, stage, buffer);
    multiply_stage<Path>(arguments, place, layout, stage, buffer, counts);
    if (branch_ends) {
      if (Path::kCountsPixels) count_boxes(arguments, layout);
      finish_branch<Element, Path, kKind>(arguments, place, run, branch, counts, boxes, held);
      clear(counts);
    }
    synchronize_block();
    branch = next_branch;
    slab = next_slab;
    if (ahead) buffer = 1 - buffer;
  }
}

}  // namespace
}  // namespace bidiff::cuda

// The kernels of a path: every operator, both elements. 4 blocks to a multiprocessor bound the
// registers of a thread to 128.
#define BIDIFF_CONV_KERNEL(name, ...) \
  BIDIFF_KERNEL(name, bidiff::cuda::ConvArguments, bidiff::cuda::kConvThreads, 4) { \
    using namespace bidiff::cuda;                                                   \
    __VA_ARGS__(arguments);                                                         \
  }
#define BIDIFF_CONV_KERNELS_OF(path, conv, element, Element)                                     \
  BIDIFF_CONV_KERNEL(bidiff_binary_conv_##path##_##element, conv(Element, Kind::kBinaryConv))    \
  BIDIFF_CONV_KERNEL(bidiff_norm_binary_conv_##path##_##element,                                 \
                     conv(Element, Kind::kNormBinaryConv))                                       \
  BIDIFF_CONV_KERNEL(bidiff_binary_fusion_##path##_##element, conv(Element, Kind::kBinaryFusion)) \
  BIDIFF_CONV_KERNEL(bidiff_binary_down_##path##_##element, conv(Element, Kind::kBinaryDown))    \
  BIDIFF_CONV_KERNEL(bidiff_binary_up_##path##_##element, conv(Element, Kind::kBinaryUp))
#define BIDIFF_CONV_KERNELS(path, conv)               \
  BIDIFF_CONV_KERNELS_OF(path, conv, f32, float)      \
  BIDIFF_CONV_KERNELS_OF(path, conv, f16, Half)
