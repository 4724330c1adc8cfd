// A tile of kVectors vectors of pixels by kChannels output channels: counting, float epilogue,
// stores. Unnamed namespace as in bitslice.h.
#pragma once

#include "popcount_input.h"

namespace bidiff {
namespace {

// Where the vectors of a tile lie; the same for every group of output channels.
struct Tile {
  int64_t word[kVectors];     // in a packed band
  int64_t y[kVectors], x[kVectors], pixel[kVectors];  // pixel = y * W + x
  int border[kVectors];       // classes of border_offsets.h, for lanes inside the row
  uint32_t lanes[kVectors];   // that exist; 0 for a vector that does not
  uint32_t left[kVectors], right[kVectors];  // the lane at that end of the row, or 0
  bool full, edged;           // every lane exists; some vector has an end of a row
};

// What a group of output channels needs beside the packed words.
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

// Mismatches of every vector with every channel.
template <class Vec, class Count, int kKernel>
BIDIFF_INLINE void count_tile(const PopcountRun& run, const uint32_t* band, const Tile& tile,
                              const uint32_t* weights,
                              typename Vec::Bits counts[kChannels][kVectors]) {
  using Bits = typename Vec::Bits;
  const int64_t planes = words_per_tap(run.problem->shape), plane_words = run.plane_words;
  const uint32_t* const at[kVectors] = {band + tile.word[0], band + tile.word[1],
                                        band + tile.word[2], band + tile.word[3]};
  for (int c = 0; c < kChannels; ++c) {
    for (int v = 0; v < kVectors; ++v) counts[c][v] = Vec::zero();
  }
  for (int dy = 0; dy < kKernel; ++dy) {
    int64_t from = dy * run.row_words - kKernel / 2;
    for (int64_t plane = 0; plane < planes; ++plane, from += plane_words) {
#pragma GCC unroll 3
      for (int dx = 0; dx < kKernel; ++dx) {
        Bits inputs[kVectors];
        for (int v = 0; v < kVectors; ++v) inputs[v] = Vec::load_unaligned(at[v] + from + dx);
#pragma GCC unroll 4
        for (int c = 0; c < kChannels; ++c) {
          const Bits weight = Vec::broadcast(weights[c]);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            counts[c][v] = Vec::add(counts[c][v], Count::ones(Vec::differ(inputs[v], weight)));
            Vec::keep(counts[c][v]);
          }
        }
        weights += kChannels;
      }
    }
  }
}

// sum = offset - 2 * count, where the offset depends on the lane's border class.
template <class Vec>
BIDIFF_INLINE void sum_channel(const Group& group, int c, const Tile& tile,
                               const typename Vec::Bits* counts, typename Vec::Bits* sums) {
  const int32_t* offsets = group.offsets + c * kClasses;
  for (int v = 0; v < kVectors; ++v) {
    sums[v] = Vec::broadcast(static_cast<uint32_t>(offsets[tile.border[v]]));
  }
  if (tile.edged) {
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = Vec::put_lanes(sums[v], tile.left[v], offsets[tile.border[v] | 4]);
      sums[v] = Vec::put_lanes(sums[v], tile.right[v], offsets[tile.border[v] | 8]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    sums[v] = Vec::subtract(sums[v], Vec::template shift_left<1>(counts[v]));
  }
}

template <class Vec, bool kFull>
BIDIFF_INLINE typename Vec::Floats load_pixels(const float* plane, const Tile& tile, int v) {
  const float* from = plane + tile.pixel[v];
  return kFull ? Vec::load_floats(from, Vec::kLanes) : Vec::load_lanes(from, tile.lanes[v]);
}

// The epilogue of the contract, step by step over the vectors of a tile.
template <class Vec, bool kFull>
BIDIFF_INLINE void finish_channel(const Group& group, int c, const Tile& tile,
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

// ---- where a tile goes --------------------------------------------------------------------------

struct SumsOutput {
  static constexpr bool kSums = true;
  template <class Vec, bool kFull>
  BIDIFF_INLINE void store(const Group& group, const Tile& tile,
                           const typename Vec::Bits counts[kChannels][kVectors]) {
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      if (c >= group.channels) break;
      typename Vec::Bits sums[kVectors];
      sum_channel<Vec>(group, c, tile, counts[c], sums);
      for (int v = 0; v < kVectors; ++v) {
        Vec::store_lanes(group.sums[c] + tile.pixel[v], sums[v], tile.lanes[v]);
      }
    }
  }
};

struct PlainOutput {
  static constexpr bool kSums = false;
  template <class Vec, bool kFull>
  BIDIFF_INLINE void store(const Group& group, const Tile& tile,
                           const typename Vec::Bits counts[kChannels][kVectors]) {
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      if (c >= group.channels) break;
      typename Vec::Floats y[kVectors];
      finish_channel<Vec, kFull>(group, c, tile, counts[c], y);
      float* to = group.y[c];
      if (!kFull) {
        for (int v = 0; v < kVectors; ++v) {
          Vec::store_lanes(to + tile.pixel[v], y[v], tile.lanes[v]);
        }
      } else if (group.streams) {
        for (int v = 0; v < kVectors; ++v) Vec::stream(to + tile.pixel[v], y[v]);
      } else {
        for (int v = 0; v < kVectors; ++v) Vec::store_floats(to + tile.pixel[v], y[v], Vec::kLanes);
      }
    }
  }
};

// PixelShuffle(2): the four channels of a group are the four pixels of a square of one plane.
struct ShuffleOutput {
  static constexpr bool kSums = false;
  template <class Vec, bool kFull>
  BIDIFF_INLINE void store(const Group& group, const Tile& tile,
                           const typename Vec::Bits counts[kChannels][kVectors]) {
    const int64_t width = group.problem->shape.width;
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      typename Vec::Floats even[kVectors], odd[kVectors];
      finish_channel<Vec, kFull>(group, 2 * i, tile, counts[2 * i], even);
      finish_channel<Vec, kFull>(group, 2 * i + 1, tile, counts[2 * i + 1], odd);
      for (int v = 0; v < kVectors; ++v) {
        float* to = group.y[0] + (2 * tile.y[v] + i) * 2 * width + 2 * tile.x[v];
        const typename Vec::Floats lower = Vec::template interleave<false>(even[v], odd[v]);
        const typename Vec::Floats upper = Vec::template interleave<true>(even[v], odd[v]);
        if (!kFull) {
          const uint64_t lanes = both_lanes<Vec>(tile.lanes[v]);
          Vec::store_lanes(to, lower, static_cast<uint32_t>(lanes & ((1u << Vec::kLanes) - 1)));
          Vec::store_lanes(to + Vec::kLanes, upper, static_cast<uint32_t>(lanes >> Vec::kLanes));
        } else if (group.streams) {
          Vec::stream(to, lower);
          Vec::stream(to + Vec::kLanes, upper);
        } else {
          Vec::store_floats(to, lower, Vec::kLanes);
          Vec::store_floats(to + Vec::kLanes, upper, Vec::kLanes);
        }
      }
    }
  }

 private:
  // As many lanes, twice: lanes of a part are the first ones.
  template <class Vec>
  BIDIFF_INLINE uint64_t both_lanes(uint32_t lanes) {
    return (uint64_t{1} << (2 * __builtin_popcount(lanes))) - 1;
  }
};

// PixelUnshuffle(2): channel o becomes planes 4 o + 2 i + j of its rows 2 y + i and columns 2 x + j.
struct UnshuffleOutput {
  static constexpr bool kSums = false;
  template <class Vec, bool kFull>
  BIDIFF_INLINE void store(const Group& group, const Tile& tile,
                           const typename Vec::Bits counts[kChannels][kVectors]) {
    const int64_t half = group.problem->shape.width / 2;
    const int64_t plane = group.problem->shape.height / 2 * half;
    constexpr uint32_t kHalf = (1u << (Vec::kLanes / 2)) - 1;
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      if (c >= group.channels) break;
      typename Vec::Floats y[kVectors];
      finish_channel<Vec, kFull>(group, c, tile, counts[c], y);
      for (int v = 0; v < kVectors; ++v) {
        float* to = group.y[c] + tile.y[v] % 2 * 2 * plane + tile.y[v] / 2 * half + tile.x[v] / 2;
        const uint32_t lanes =
            kFull ? kHalf : (1u << (__builtin_popcount(tile.lanes[v]) / 2)) - 1;
        Vec::store_lanes(to, Vec::template every_other<false>(y[v], y[v]), lanes);
        Vec::store_lanes(to + plane, Vec::template every_other<true>(y[v], y[v]), lanes);
      }
    }
  }
};

}  // namespace
}  // namespace bidiff
