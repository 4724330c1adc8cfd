// What the portable kernels share. For files compiled without instruction-set flags only.
#pragma once

#include <stdint.h>

#include "binary_conv.h"

namespace bidiff {

extern const Kernel kPortableScaled;

// Counts the ones of a word by adding neighbouring fields: without instruction-set flags the
// compiler's builtin would call a table lookup.
static inline int32_t ones(uint64_t word) {
#if defined(__aarch64__)
  return __builtin_popcountll(word);
#else
  word -= (word >> 1) & 0x5555555555555555u;
  word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return static_cast<int32_t>((word * 0x0101010101010101u) >> 56);
#endif
}

}  // namespace bidiff
