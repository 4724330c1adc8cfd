#include "check.h"

namespace bidiff {
namespace {

// Sums must fit int32: |sum| <= 9 * Cin.
constexpr int64_t kMaxChannels = int64_t{1} << 24;

}  // namespace

std::string text(const Dims& dims) {
  std::string out = "(";
  for (size_t i = 0; i < dims.size(); ++i) out += (i ? ", " : "") + std::to_string(dims[i]);
  return out + ")";
}

int64_t element_count(const Dims& dims) {
  int64_t count = 1;
  for (int64_t size : dims) count *= size;
  return count;
}

std::string read_shape(const Dims& x, const Dims& words, Shape* shape) {
  if (x.size() != 4) {
    return "bidiff::BinaryConv: x must have shape (N, Cin, H, W), not " + text(x);
  }
  for (int64_t size : x) {
    if (size < 1) {
      return "bidiff::BinaryConv: every dimension of x must be at least 1, not " + text(x);
    }
  }
  if (x[1] > kMaxChannels) {
    return "bidiff::BinaryConv: x has " + std::to_string(x[1]) + " channels, at most " +
           std::to_string(kMaxChannels) + " are supported";
  }
  if (words.size() != 4 || words[0] < 1 || words[1] != words[2] ||
      (words[1] != 1 && words[1] != 3)) {
    return "bidiff::BinaryConv: words must have shape (Cout, k, k, ceil(Cin/32)) with k 1 or 3, "
           "not " +
           text(words);
  }
  *shape = {x[0], x[1], words[0], words[1], x[2], x[3]};
  if (words[3] != words_per_tap(*shape)) {
    return "bidiff::BinaryConv: words must have ceil(Cin/32) = " +
           std::to_string(words_per_tap(*shape)) + " words a tap for the " + std::to_string(x[1]) +
           " channels of x, not " + std::to_string(words[3]);
  }
  return "";
}

std::string check_vector(const char* name, const Dims& dims, int64_t length, bool or_one) {
  if (dims.size() == 1 && dims[0] == length) return "";
  if (or_one && element_count(dims) == 1) return "";
  return std::string("bidiff::BinaryConv: ") + name + " must have shape (" +
         std::to_string(length) + ")" + (or_one ? " or one element" : "") + ", not " + text(dims);
}

std::string check_rprelu(const Dims& dims, const Shape& shape) {
  const Dims wanted = {3, shape.out_channels};
  if (dims == wanted) return "";
  return "bidiff::BinaryConv: rprelu must have shape " + text(wanted) + ", not " + text(dims);
}

std::string check_residual(const Dims& dims, const Shape& shape) {
  const Dims wanted = {shape.batch, shape.out_channels, shape.height, shape.width};
  if (dims == wanted || element_count(dims) == 1) return "";
  return "bidiff::BinaryConv: residual must have the output's shape " + text(wanted) +
         " or one element, not " + text(dims);
}

}  // namespace bidiff
