// The sum over K without tensor cores and without shared memory: the oracle for the other paths,
// and the fallback where they do not run. A thread has the same channels and pixels as there.
#pragma once

#include "path.h"
#include "place.h"

namespace bidiff::cuda {
namespace {

struct PopcPath {
  static constexpr int kScale = -2;
  static constexpr bool kSubtractsOnes = false, kCountsPixels = false;
};

// Word of the prepared weights, at `place` words from the slab's start.
BIDIFF_DEVICE unsigned weight_at(const unsigned* slab, int tile, int half, int row, int place) {
  const int word = place % kChunkWords;
  const int lane = 4 * row + word % 4, reg = half + word / 4 * 2;
  return load(slab + place / kChunkWords * kFragmentWords + (tile * 32 + lane) * 4 + reg);
}

BIDIFF_DEVICE void count_branch(const ConvArguments& arguments, const Place& place,
                                const ConvBranch& branch, Counts& counts) {
  const Geometry& map = arguments.map;
  const int k = 1 + 2 * map.halo;
  const Pixel run = run_of(map, place.lane_column);
  const long long plane = plane_words(map);
  const unsigned* pixels = at<const unsigned>(branch.packed) +
                           static_cast<long long>(place.image) * arguments.words * plane +
                           (place.tile_y + run.y) * map.pitch + place.tile_x + run.x + map.halo;
  const unsigned* slab = at<const unsigned>(branch.fragments) +
                         static_cast<long long>(place.block) * arguments.chunks * kFragmentWords;
  for (int first = 0; first < arguments.words; first += slab_words(k)) {
    const int rest = arguments.words - first;
    const int words = rest < slab_words(k) ? rest : slab_words(k);
    for (int i = 0; i < k * k * words; ++i) {
      const int tap = i / words, word = i - tap * words;
      const unsigned* from = pixels + (first + word) * plane + tap / k * map.pitch + tap % k;
      unsigned activations[kRun];
#pragma unroll
      for (int pixel = 0; pixel < kRun; ++pixel) activations[pixel] = load(from + pixel);
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const unsigned weights = weight_at(slab, m, half, place.lane_row, i);
#pragma unroll
          for (int pixel = 0; pixel < kRun; ++pixel) {
            counts[m][pixel / 2][2 * half + pixel % 2] += popcount(activations[pixel] ^ weights);
          }
        }
      }
    }
    slab += slab_chunks(k, words) * kFragmentWords;
  }
}

}  // namespace
}  // namespace bidiff::cuda
