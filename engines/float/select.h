// The float kernels that go with a kernel of binary convolutions.
#pragma once

#include <vector>

#include "attention.h"
#include "conv3x3.h"
#include "norm.h"
#include "pointwise.h"
#include "scan.h"

namespace bidiff {

struct FloatKernels {
  const char* name;  // portable, avx2, avx512, avx512bf16 or neonbf16
  bool rounds;       // whether Precision::kBfloat16 makes a difference
  const NormKernel* norm;
  const ConvKernel* conv3x3;
  const ConvKernel* direct3x3;
  const PointwiseKernel* pointwise;
  const AttentionKernel* attention;
  const ScanKernel* scan;
};

// The best that this CPU runs within the instruction sets of `binary`, so that forcing a kernel by
// BIDIFF_KERNEL also restricts these.
const FloatKernels& float_kernels(const Kernel& binary);

// All that this CPU runs, best first.
std::vector<const FloatKernels*> supported_float_kernels();

}  // namespace bidiff
