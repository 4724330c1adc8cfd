// Shapes of one call, checked in one place for every host.
#pragma once

#include <string>
#include <vector>

#include "binary_conv.h"

namespace bidiff {

using Dims = std::vector<int64_t>;

// The shape that x (N, Cin, H, W) and words (Cout, k, k, ceil(Cin/32)) describe. Returns "" or an
// error sentence.
std::string read_shape(const Dims& x, const Dims& words, Shape* shape);

// The same for the other inputs: each returns "" if `dims` fits. `name` is the input's name.
std::string check_vector(const char* name, const Dims& dims, int64_t length, bool or_one);
std::string check_rprelu(const Dims& dims, const Shape& shape);
std::string check_residual(const Dims& dims, const Shape& shape);

int64_t element_count(const Dims& dims);
std::string text(const Dims& dims);  // "(1, 2, 3)"

}  // namespace bidiff
