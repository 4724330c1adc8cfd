// The sum over K of a block: stages of packed map and weights in shared memory, multiplied chunk
// by chunk.
#pragma once

#include "path.h"
#include "place.h"

namespace bidiff::cuda {
namespace {

// One slab of one branch.
struct Stage {
  int branch, slab, words, chunks;
};

BIDIFF_DEVICE Stage stage_of(const ConvArguments& arguments, int branch, int slab) {
  const int k = 1 + 2 * arguments.map.halo, first = slab * slab_words(k);
  const int rest = arguments.words - first;
  Stage stage;
  stage.branch = branch;
  stage.slab = slab;
  stage.words = rest < slab_words(k) ? rest : slab_words(k);
  stage.chunks = slab_chunks(k, stage.words);
  return stage;
}

// Starts the copies of a stage into buffer 0 or 1.
BIDIFF_DEVICE void load_stage(const ConvArguments& arguments, const Place& place,
                              const StageLayout& layout, const Stage& stage, int buffer) {
  const Geometry& map = arguments.map;
  const ConvBranch& branch = arguments.branch[stage.branch];
  const int k = 1 + 2 * map.halo, stride = halo_stride(map.halo), thread = thread_index();

  unsigned* fragments = shared_memory() + layout.fragments + buffer * layout.stage_fragments;
  const long long chunk = static_cast<long long>(place.block) * arguments.chunks +
                          stage.slab * slab_chunks(k, slab_words(k));
  const unsigned* weights = at<const unsigned>(branch.fragments) + chunk * kFragmentWords;
#pragma unroll 1
  for (int i = 4 * thread; i < stage.chunks * kFragmentWords; i += 4 * kConvThreads) {
    copy16(fragments + i, weights + i);
  }

  unsigned* planes = shared_memory() + layout.planes + buffer * layout.stage_planes;
  const long long plane = plane_words(map);
  const unsigned* packed =
      at<const unsigned>(branch.packed) +
      (static_cast<long long>(place.image) * arguments.words + stage.slab * slab_words(k)) * plane +
      place.tile_y * map.pitch + place.tile_x;
  const int width = halo_width(map), pairs = width / 2;
  // At most 108 pairs of words: one for each thread, in every plane.
  if (thread < pairs * halo_height(map)) {
    const int row = thread / pairs, column = 2 * (thread % pairs);
    packed += row * map.pitch + column;
    planes += row * width + column;
#pragma unroll 4
    for (int word = 0; word < stage.words; ++word) {
      copy8(planes + word * stride, packed + word * plane);
    }
  }
  commit_copies();

  // Offset of each word of K from the start of shared memory, for the tile's first pixel.
  int* offsets =
      reinterpret_cast<int*>(shared_memory()) + layout.offsets + buffer * layout.stage_offsets;
#pragma unroll 1
  for (int i = thread; i < stage.chunks * kChunkWords; i += kConvThreads) {
    const int tap = i / stage.words, word = i - tap * stage.words;
    const int from = layout.planes + buffer * layout.stage_planes + word * stride;
    // The halo has two columns at the left, of which a tap needs one.
    offsets[i] = tap >= k * k ? layout.zero : from + tap / k * width + tap % k + map.halo;
  }
}

template <class Path>
BIDIFF_DEVICE void multiply_stage(const ConvArguments& arguments, const Place& place,
                                  const StageLayout& layout, const Stage& stage, int buffer,
                                  Counts& counts) {
  const Geometry& map = arguments.map;
  const unsigned* shared = shared_memory();
  const Words4* fragments =
      reinterpret_cast<const Words4*>(shared + layout.fragments + buffer * layout.stage_fragments) +
      thread_index() % 32;
  const int* offsets = reinterpret_cast<const int*>(shared) + layout.offsets +
                       buffer * layout.stage_offsets + place.lane_column;
  const Pixel run = run_of(map, place.lane_row / 2);
  const unsigned* pixels = shared + run.y * halo_width(map) + run.x + place.lane_row % 2;
  [[maybe_unused]] constexpr int kUnroll = Path::kUnroll;
#pragma unroll kUnroll
  for (int chunk = 0; chunk < stage.chunks; ++chunk) {
    WeightBits a;
    PixelBits b;
    const unsigned* half0 = pixels + offsets[0];
    const unsigned* half1 = pixels + offsets[4];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      b[j][0] = half0[2 * j];
      b[j][1] = half1[2 * j];
    }
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      const Words4 words = fragments[32 * m];
      a[m][0] = words.x;
      a[m][1] = words.y;
      a[m][2] = words.z;
      a[m][3] = words.w;
    }
    Path::multiply(counts, a, b);
    fragments += kFragmentWords / 4;
    offsets += kChunkWords;
  }
}

// Adds the ones of the stage's words to the count of each place in the halo; each thread has its
// own places.
BIDIFF_DEVICE void count_pixels(const ConvArguments& arguments, const StageLayout& layout,
                                const Stage& stage, int buffer) {
  const unsigned* planes = shared_memory() + layout.planes + buffer * layout.stage_planes;
  unsigned* ones = shared_memory() + layout.ones;
  const int stride = halo_stride(arguments.map.halo);
  const int places = halo_width(arguments.map) * halo_height(arguments.map);
#pragma unroll 1
  for (int place = thread_index(); place < places; place += kConvThreads) {
    int count = stage.slab ? ones[place] : 0;
#pragma unroll 4
    for (int word = 0; word < stage.words; ++word) count += popcount(planes[word * stride + place]);
    ones[place] = count;
  }
}

// Sums these counts under the taps of each of the block's pixels, run by run.
BIDIFF_DEVICE void count_boxes(const ConvArguments& arguments, const StageLayout& layout) {
  const Geometry& map = arguments.map;
  const int k = 1 + 2 * map.halo, width = halo_width(map), thread = thread_index();
  const unsigned* ones = shared_memory() + layout.ones + thread / map.tile_width * width +
                         thread % map.tile_width + map.halo;
  synchronize_block();
  int count = 0;
#pragma unroll 1
  for (int tap = 0; tap < k * k; ++tap) count += ones[tap / k * width + tap % k];
  shared_memory()[layout.boxes + thread] = count;
  synchronize_block();
}

}  // namespace
}  // namespace bidiff::cuda
