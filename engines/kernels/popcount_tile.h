// A tile of kVectors vectors of pixels by kChannels output channels: counting and float epilogue.
// Unnamed namespace as in bitslice.h.
#pragma once

#include "popcount_input.h"

namespace bidiff {
namespace {

// Positions of a tile's vectors; the same for every group of output channels.
template <class Vec>
struct alignas(64) Tile {
  uint32_t classes[kVectors][Vec::kLanes];  // border class of every lane
  int64_t word[kVectors];                   // in a packed band
  int64_t pixel[kVectors];                  // y * W + x
  int64_t stored[kVectors];                 // the same in the output's order, Problem::store
  uint32_t lanes[kVectors];                 // that exist; 0 for a vector that does not
  bool full;                                // all do
  bool paired;                              // and each second vector continues the first one's row
};

// What a group of output channels needs besides the packed words.
struct Group {
  const Problem* problem;
  int64_t first;
  int channels;
  const int32_t* offsets;
  const uint32_t* words;
  const float* residual[kChannels];  // by pixel of the image, or null
  const float* skip[kChannels];
  float* y[kChannels];
  int32_t* sums[kChannels];
  bool streams;
};

// Adds the mismatches of the taps dx of one word and row.
template <class Vec, class Count, int kKernel>
BIDIFF_INLINE void count_taps(const uint32_t* const* at, int64_t from, const uint32_t* weights,
                              typename Vec::Bits counts[kChannels][kVectors]) {
  using Bits = typename Vec::Bits;
#pragma GCC unroll 3
  for (int dx = 0; dx < kKernel; ++dx) {
    Bits inputs[kVectors];
    for (int v = 0; v < kVectors; ++v) inputs[v] = Vec::load_unaligned(at[v] + from + dx);
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      const Bits weight = Vec::broadcast(weights[dx * kChannels + c]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        counts[c][v] = Count::add(counts[c][v], Vec::differ(inputs[v], weight));
        Vec::keep(counts[c][v]);
      }
    }
  }
}

template <class Vec>
BIDIFF_INLINE void clear(typename Vec::Bits counts[kChannels][kVectors]) {
  for (int c = 0; c < kChannels; ++c) {
    for (int v = 0; v < kVectors; ++v) counts[c][v] = Vec::zero();
  }
}

// Mismatches of every vector with every channel.
template <class Vec, class Count, int kKernel>
BIDIFF_INLINE void count_tile(const PopcountRun& run, const uint32_t* band, const Tile<Vec>& tile,
                              const uint32_t* weights,
                              typename Vec::Bits counts[kChannels][kVectors]) {
  const int64_t planes = words_per_tap(run.problem->shape), plane_words = run.plane_words;
  const uint32_t* const at[kVectors] = {band + tile.word[0], band + tile.word[1],
                                        band + tile.word[2], band + tile.word[3]};
  clear<Vec>(counts);
  if constexpr (Count::kMaxAdditions == 0) {
    for (int dy = 0; dy < kKernel; ++dy) {
      int64_t from = dy * run.row_words - kKernel / 2;
      for (int64_t plane = 0; plane < planes; ++plane, from += plane_words) {
        count_taps<Vec, Count, kKernel>(at, from, weights, counts);
        weights += kKernel * kChannels;
      }
    }
  } else {
    const int64_t next_row = run.row_words - planes * plane_words;
    int64_t from = -(kKernel / 2), plane = 0, left = kKernel * planes;
    while (left > 0) {
      typename Vec::Bits narrow[kChannels][kVectors];
      clear<Vec>(narrow);
      constexpr int64_t kMaxSteps = Count::kMaxAdditions / kKernel;
      int64_t steps = left < kMaxSteps ? left : kMaxSteps;
      left -= steps;
      for (; steps > 0; --steps) {
        count_taps<Vec, Count, kKernel>(at, from, weights, narrow);
        weights += kKernel * kChannels;
        from += plane_words;
        if (kKernel > 1) {
          const int64_t row_ends = -static_cast<int64_t>(++plane == planes);  // all ones, or 0
          from += row_ends & next_row;
          plane &= ~row_ends;
        }
      }
      for (int c = 0; c < kChannels; ++c) {
        for (int v = 0; v < kVectors; ++v)
          counts[c][v] = Count::accumulate(counts[c][v], narrow[c][v]);
      }
    }
  }
}

// sum = offset - 2 * count, where the offset depends on the lane's border class.
template <class Vec>
BIDIFF_INLINE void sum_channel(const Group& group, int c, const Tile<Vec>& tile,
                               const typename Vec::Bits* counts, typename Vec::Bits* sums) {
  for (int v = 0; v < kVectors; ++v) {
    sums[v] = Vec::subtract(Vec::lookup(group.offsets + c * kClasses, tile.classes[v]),
                            Vec::template shift_left<1>(counts[v]));
  }
}

template <class Vec, bool kFull>
BIDIFF_INLINE typename Vec::Floats load_pixels(const float* plane, const Tile<Vec>& tile, int v) {
  const float* from = plane + tile.pixel[v];
  return kFull ? Vec::load_floats(from, Vec::kLanes) : Vec::load_lanes(from, tile.lanes[v]);
}

// The epilogue of the contract, step by step over the vectors of a tile.
template <class Vec, bool kFull>
BIDIFF_INLINE void finish_channel(const Group& group, int c, const Tile<Vec>& tile,
                                  const typename Vec::Bits* counts, typename Vec::Floats* y) {
  using Floats = typename Vec::Floats;
  const Problem& problem = *group.problem;
  const int64_t channel = group.first + c, channels = problem.shape.out_channels;
  typename Vec::Bits sums[kVectors];
  sum_channel<Vec>(group, c, tile, counts, sums);
  const Floats alpha = Vec::broadcast_float(problem.alpha[channel]);
  for (int v = 0; v < kVectors; ++v) y[v] = Vec::multiply(alpha, Vec::to_float(sums[v]));
  if (const float* rprelu = problem.rprelu) {
    const Floats shift_in = Vec::broadcast_float(rprelu[channel]);
    const Floats slope = Vec::broadcast_float(rprelu[channels + channel]);
    const Floats shift_out = Vec::broadcast_float(rprelu[2 * channels + channel]);
    for (int v = 0; v < kVectors; ++v) {
      y[v] = Vec::scale_negative(Vec::add_float(y[v], shift_in), slope);
      y[v] = Vec::add_float(y[v], shift_out);
    }
  }
  if (const float* residual = group.residual[c]) {
    for (int v = 0; v < kVectors; ++v) {
      y[v] = Vec::add_float(y[v], load_pixels<Vec, kFull>(residual, tile, v));
    }
  } else if (problem.residual_is_scalar && problem.residual) {
    const Floats residual = Vec::broadcast_float(problem.residual[0]);
    for (int v = 0; v < kVectors; ++v) y[v] = Vec::add_float(y[v], residual);
  }
  if (problem.time) {
    const Floats time = Vec::broadcast_float(problem.time[problem.time_is_scalar ? 0 : channel]);
    for (int v = 0; v < kVectors; ++v) y[v] = Vec::add_float(y[v], time);
  }
  if (const float* skip = group.skip[c]) {
    for (int v = 0; v < kVectors; ++v) {
      y[v] = Vec::add_float(y[v], load_pixels<Vec, kFull>(skip, tile, v));
    }
  }
}

// Vectors of a row are contiguous, so prefetching one fetches all of its cache line.
template <class Vec>
constexpr int kLineVectors = static_cast<int>(kLine / sizeof(float)) / Vec::kLanes;

// Prefetches what a tile will add.
template <class Vec>
BIDIFF_INLINE void fetch_added(const Group& group, const Tile<Vec>& tile) {
#pragma GCC unroll 4
  for (int c = 0; c < kChannels; ++c) {
    if (const float* residual = group.residual[c]) {
      for (int v = 0; v < kVectors; v += kLineVectors<Vec>) Vec::prefetch(residual + tile.pixel[v]);
    }
    if (const float* skip = group.skip[c]) {
      for (int v = 0; v < kVectors; v += kLineVectors<Vec>) Vec::prefetch(skip + tile.pixel[v]);
    }
  }
}

}  // namespace
}  // namespace bidiff
