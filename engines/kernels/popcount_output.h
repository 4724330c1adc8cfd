// How a tile is stored: sums as they are, or floats in the order of Problem::store. Every output
// has `fetch`, which prefetches the lines that a later tile writes, and `store`. Unnamed namespace
// as in bitslice.h.
#pragma once

#include "popcount_tile.h"

namespace bidiff {
namespace {

struct SumsOutput {
  template <class Vec>
  BIDIFF_INLINE void fetch(const Group&, const Tile<Vec>&) {}
  template <class Vec, bool kFull>
  BIDIFF_INLINE void store(const Group& group, const Tile<Vec>& tile,
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
  template <class Vec>
  BIDIFF_INLINE void fetch(const Group& group, const Tile<Vec>& tile) {
    if (group.streams) return;
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      if (c >= group.channels) break;
      for (int v = 0; v < kVectors; v += kLineVectors<Vec>) {
        Vec::prefetch_write(group.y[c] + tile.pixel[v]);
      }
    }
  }
  template <class Vec, bool kFull>
  BIDIFF_INLINE void store(const Group& group, const Tile<Vec>& tile,
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

// PixelShuffle(2): the four channels of a group become 2x2 pixels of one plane.
struct ShuffleOutput {
  template <class Vec>
  BIDIFF_INLINE void fetch(const Group& group, const Tile<Vec>& tile) {
    if (group.streams) return;
    const int64_t row = 2 * group.problem->shape.width;
    for (int v = 0; v < kVectors; ++v) {
      for (int i = 0; i < 2; ++i) {
        const float* to = group.y[0] + tile.stored[v] + i * row;
        Vec::prefetch_write(to);
        Vec::prefetch_write(to + Vec::kLanes);
      }
    }
  }
  template <class Vec, bool kFull>
  BIDIFF_INLINE void store(const Group& group, const Tile<Vec>& tile,
                           const typename Vec::Bits counts[kChannels][kVectors]) {
    const int64_t row = 2 * group.problem->shape.width;
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      typename Vec::Floats even[kVectors], odd[kVectors];
      finish_channel<Vec, kFull>(group, 2 * i, tile, counts[2 * i], even);
      finish_channel<Vec, kFull>(group, 2 * i + 1, tile, counts[2 * i + 1], odd);
      for (int v = 0; v < kVectors; ++v) {
        float* to = group.y[0] + tile.stored[v] + i * row;
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
  // Twice as many lanes; those of an incomplete vector are the first ones.
  template <class Vec>
  BIDIFF_INLINE uint64_t both_lanes(uint32_t lanes) {
    return (uint64_t{1} << (2 * __builtin_popcount(lanes))) - 1;
  }
};

// PixelUnshuffle(2): plane 4 o + 2 i + j takes rows 2 y + i and columns 2 x + j of channel o.
struct UnshuffleOutput {
  template <class Vec>
  BIDIFF_INLINE void fetch(const Group& group, const Tile<Vec>& tile) {
    const int64_t plane = group.problem->shape.height * group.problem->shape.width / 4;
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      if (c >= group.channels) break;
      for (int v = 0; v < kVectors; v += tile.paired ? 2 : 1) {
        Vec::prefetch_write(group.y[c] + tile.stored[v]);
        Vec::prefetch_write(group.y[c] + tile.stored[v] + plane);
      }
    }
  }
  template <class Vec, bool kFull>
  BIDIFF_INLINE void store(const Group& group, const Tile<Vec>& tile,
                           const typename Vec::Bits counts[kChannels][kVectors]) {
    const int64_t plane = group.problem->shape.height * group.problem->shape.width / 4;
    constexpr uint32_t kHalf = (1u << (Vec::kLanes / 2)) - 1;
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) {
      if (c >= group.channels) break;
      typename Vec::Floats y[kVectors];
      finish_channel<Vec, kFull>(group, c, tile, counts[c], y);
      if (kFull && tile.paired) {
        for (int v = 0; v < kVectors; v += 2) {
          float* to = group.y[c] + tile.stored[v];
          Vec::store_floats(to, Vec::template every_other<false>(y[v], y[v + 1]), Vec::kLanes);
          Vec::store_floats(to + plane, Vec::template every_other<true>(y[v], y[v + 1]),
                            Vec::kLanes);
        }
        continue;
      }
      for (int v = 0; v < kVectors; ++v) {
        float* to = group.y[c] + tile.stored[v];
        const uint32_t lanes = kFull ? kHalf : (1u << (__builtin_popcount(tile.lanes[v]) / 2)) - 1;
        Vec::store_lanes(to, Vec::template every_other<false>(y[v], y[v]), lanes);
        Vec::store_lanes(to + plane, Vec::template every_other<true>(y[v], y[v]), lanes);
      }
    }
  }
};

}  // namespace
}  // namespace bidiff
