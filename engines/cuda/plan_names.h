// Names of the kernels (device/*.cu), and which of them an architecture has.
#pragma once

#include "problem.h"

namespace bidiff::cuda {

constexpr int kMinArchitecture = 75;

const char* conv_kernel(Op op, Path path, Element element);  // of a convolution operator
const char* pack_kernel(Element element, bool norm);
const char* statistics_kernel(Element element);
const char* norm_swish_kernel(Element element);
inline constexpr const char* kPrepareFragments = "bidiff_prepare_fragments";
inline constexpr const char* kPrepareOnes = "bidiff_prepare_ones";

}  // namespace bidiff::cuda
