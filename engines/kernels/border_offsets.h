// Weight bits as integers, and the border's part of a sum. Unnamed namespace as in bitslice.h.
#pragma once

#include "binary_conv.h"
#include "inline.h"

namespace bidiff {
namespace {

constexpr int kClasses = 16;  // border classes of an output: 4 bits, top, bottom, left, right

BIDIFF_INLINE int weight_bit(const Shape& shape, const int32_t* words, int64_t channel, int tap,
                             int64_t input) {
  if (input >= shape.in_channels) return 0;
  const int64_t taps = shape.kernel * shape.kernel, per_tap = words_per_tap(shape);
  const uint32_t word =
      static_cast<uint32_t>(words[(channel * taps + tap) * per_tap + input / kWordBits]);
  return (word >> (input % kWordBits)) & 1;
}

// sum = offset - 2 * counted. Activation bits outside the image are 0, so a tap there counts the
// ones of its weights as mismatches; the offset of a border class, which includes K_valid, corrects
// that.
static inline void pack_offsets(const Shape& shape, const int32_t* words, int64_t channel,
                                int32_t* offsets) {
  const int k = static_cast<int>(shape.kernel);
  int32_t ones[9];
  for (int tap = 0; tap < k * k; ++tap) {
    ones[tap] = 0;
    for (int64_t input = 0; input < shape.in_channels; ++input) {
      ones[tap] += weight_bit(shape, words, channel, tap, input);
    }
  }
  for (int border = 0; border < kClasses; ++border) {
    int32_t offset = 0;
    for (int tap = 0; tap < k * k; ++tap) {
      const int dy = tap / k, dx = tap % k;
      const bool outside = k == 3 && ((dy == 0 && (border & 1)) || (dy == 2 && (border & 2)) ||
                                      (dx == 0 && (border & 4)) || (dx == 2 && (border & 8)));
      offset += outside ? 2 * ones[tap] : static_cast<int32_t>(shape.in_channels);
    }
    offsets[border] = offset;
  }
}

}  // namespace
}  // namespace bidiff
