// Words in the kernels' device form, made on the host: what cuda::plan_prepare makes on the GPU.
//
// A graph for TensorRT contains its constant words in this form, so that no run has to make it.
#pragma once

#include <cstdint>

#include "../cuda/problem.h"

namespace bidiff::tensorrt {

// Number of int32 in the device form. Throws cuda::Error for weights that the GPU cannot use.
int64_t prepared_count(const cuda::Weights& weights);

// `words` (Cout, k, k, ceil(Cin/32)) -> `prepared`, prepared_count() numbers. Padding bits are
// ignored. Throws as prepared_count.
void prepare_words(const cuda::Weights& weights, const int32_t* words, int32_t* prepared);

// Identifies the form: the number changes if any bit is stored elsewhere. From 1 to 2^31 - 1.
int32_t prepared_layout_number();

}  // namespace bidiff::tensorrt
