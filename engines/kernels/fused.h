// A convolution with everything that a Problem may ask for, on any kernel.
#pragma once

#include "binary_conv.h"

namespace bidiff {

// Runs `kernel`, and does in scratch memory what it does not handle itself (Kernel::fused); the
// result has the same bits. False if memory is short.
bool run_fused(const Kernel& kernel, const Problem& problem, const void* packed,
               const Parallel& parallel);

}  // namespace bidiff
