// Counts of ones without an instruction for them: a table of 16 entries, looked up for each half of
// a byte. For files compiled for x86 only; unnamed namespace as in bitslice.h.
#pragma once

#include "inline.h"

namespace bidiff {
namespace {

// Every byte is counted separately; the bytes of a word are added before one can overflow.
template <class Vec>
struct CountBytes {
  using Bits = typename Vec::Bits;
  static constexpr int kMaxAdditions = 255 / 8;
  BIDIFF_INLINE Bits add(Bits counts, Bits a) {
    return Vec::add_bytes(counts, Vec::ones_of_bytes(a));
  }
  BIDIFF_INLINE Bits accumulate(Bits total, Bits counts) {
    return Vec::add(total, Vec::sum_bytes(counts));
  }
};

}  // namespace
}  // namespace bidiff
