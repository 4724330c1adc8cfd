// The weights' form for popcount_words.h, and how its loops are cut. Unnamed namespace as in
// bitslice.h.
#pragma once

#include "border_offsets.h"

namespace bidiff {
namespace {

constexpr int kVectors = 4, kChannels = 4;  // of a tile

BIDIFF_INLINE int64_t channel_groups(const Shape& shape) {
  return (shape.out_channels + kChannels - 1) / kChannels;
}

BIDIFF_INLINE int64_t group_words(const Shape& shape) {
  return shape.kernel * shape.kernel * words_per_tap(shape) * kChannels;
}

// Packed: int32 offsets [Cout][kClasses], then words [Cout/4][dy][word][dx][4], which is the order
// of counting; padding bits cleared.
size_t popcount_packed_bytes(const Shape& shape) {
  const int64_t words = channel_groups(shape) * group_words(shape);
  return static_cast<size_t>(shape.out_channels * kClasses + words) * sizeof(int32_t);
}

void popcount_pack(const Shape& shape, const int32_t* words, void* packed) {
  int32_t* offsets = static_cast<int32_t*>(packed);
  uint32_t* out = reinterpret_cast<uint32_t*>(offsets + shape.out_channels * kClasses);
  const int64_t k = shape.kernel, per_tap = words_per_tap(shape);
  const int64_t rest = shape.in_channels % kWordBits;
  for (int64_t channel = 0; channel < channel_groups(shape) * kChannels; ++channel) {
    const bool exists = channel < shape.out_channels;
    if (exists) pack_offsets(shape, words, channel, offsets + channel * kClasses);
    uint32_t* group = out + channel / kChannels * group_words(shape);
    for (int64_t i = 0; i < k * k * per_tap; ++i) {
      const int64_t tap = i / per_tap, plane = i % per_tap;
      uint32_t word = exists ? static_cast<uint32_t>(words[channel * k * k * per_tap + i]) : 0;
      if (rest && plane == per_tap - 1) word &= (uint32_t{1} << rest) - 1;
      const int64_t at = (tap / k * per_tap + plane) * k + tap % k;
      group[at * kChannels + channel % kChannels] = word;
    }
  }
}

}  // namespace
}  // namespace bidiff
