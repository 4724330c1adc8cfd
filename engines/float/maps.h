// What the float kernels share: shapes, precision, and how a source file is compiled once for each
// instruction set.
//
// Every .cpp of this folder is compiled several times, each time with the flags of one instruction
// set, BIDIFF_ISA as its name, BIDIFF_LANES as the number of floats in a vector register, and
// BIDIFF_BFLOAT16 if it multiplies those: the compiler's own macros also tell what CXXFLAGS allow.
// What it exports is in namespace bidiff::BIDIFF_ISA. This header, like ../kernels/binary_conv.h,
// is read under different flags: it may not contain inline functions with external linkage.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../kernels/binary_conv.h"
#include "../kernels/support.h"

namespace bidiff {

struct MapShape {
  int64_t batch, channels, height, width;
};

// What the factors of full-precision products may be rounded to. Sums are float32 or exact. A
// kernel whose instruction set has no bfloat16 products uses integers that round less, or float32:
// see factors.h.
enum class Precision : int { kFloat32 = 0, kBfloat16 = 1 };

}  // namespace bidiff
