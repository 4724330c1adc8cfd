// The kernel for every architecture, and the oracle the others are tested against. It follows the
// contract word for word: every output visits the taps inside the image and no others.
#include "portable.h"

#include <string.h>

#include "binary_conv.h"
#include "support.h"

namespace bidiff {
namespace {

int64_t long_words(const Shape& shape) { return (shape.in_channels + 63) / 64; }

size_t packed_bytes(const Shape& shape) {
  return static_cast<size_t>(shape.out_channels * shape.kernel * shape.kernel * long_words(shape)) *
         sizeof(uint64_t);
}

// (Cout, k, k, ceil(Cin/32)) words of 32 bits to (Cout, k*k, ceil(Cin/64)) of 64, padding cleared.
void pack(const Shape& shape, const int32_t* words, void* packed) {
  uint64_t* out = static_cast<uint64_t*>(packed);
  const int64_t taps = shape.out_channels * shape.kernel * shape.kernel;
  const int64_t narrow = words_per_tap(shape), wide = long_words(shape);
  const int64_t rest = shape.in_channels % 64;
  for (int64_t tap = 0; tap < taps; ++tap) {
    for (int64_t j = 0; j < wide; ++j) {
      uint64_t word = static_cast<uint32_t>(words[tap * narrow + 2 * j]);
      if (2 * j + 1 < narrow) {
        word |= static_cast<uint64_t>(static_cast<uint32_t>(words[tap * narrow + 2 * j + 1])) << 32;
      }
      if (j == wide - 1 && rest) word &= (uint64_t{1} << rest) - 1;
      out[tap * wide + j] = word;
    }
  }
}

struct PortableRun {
  const Problem* problem;
  const uint64_t* weights;
  uint64_t* activations;  // (N, H, W, ceil(Cin/64)), padding bits 0
};

void pack_row(void* user, size_t index) {
  const PortableRun& run = *static_cast<const PortableRun*>(user);
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const int64_t wide = long_words(shape), plane = shape.height * shape.width;
  const int64_t image = static_cast<int64_t>(index) / shape.height;
  const int64_t row = static_cast<int64_t>(index) % shape.height;
  uint64_t* out = run.activations + static_cast<int64_t>(index) * shape.width * wide;
  memset(out, 0, static_cast<size_t>(shape.width * wide) * sizeof(uint64_t));
  for (int64_t channel = 0; channel < shape.in_channels; ++channel) {
    const float* x = problem.x + (image * shape.in_channels + channel) * plane + row * shape.width;
    const float threshold = problem.threshold ? problem.threshold[channel] : 0.0f;
    for (int64_t column = 0; column < shape.width; ++column) {
      const uint64_t bit = x[column] + threshold >= 0.0f;
      out[column * wide + channel / 64] |= bit << (channel % 64);
    }
  }
}

float epilogue(const Problem& problem, int64_t channel, int64_t offset, int32_t sum) {
  const int64_t channels = problem.shape.out_channels;
  float y = problem.alpha[channel] * static_cast<float>(sum);
  if (problem.rprelu) {
    y = y + problem.rprelu[channel];
    y = y < 0.0f ? problem.rprelu[channels + channel] * y : y;
    y = y + problem.rprelu[2 * channels + channel];
  }
  if (problem.residual) y = y + problem.residual[problem.residual_is_scalar ? 0 : offset];
  if (problem.time) y = y + problem.time[problem.time_is_scalar ? 0 : channel];
  return y;
}

void convolve_row(void* user, size_t index) {
  const PortableRun& run = *static_cast<const PortableRun*>(user);
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const int64_t wide = long_words(shape), k = shape.kernel, half = k / 2;
  const int64_t image = static_cast<int64_t>(index) / shape.height;
  const int64_t row = static_cast<int64_t>(index) % shape.height;
  const uint64_t* activations = run.activations + image * shape.height * shape.width * wide;
  for (int64_t channel = 0; channel < shape.out_channels; ++channel) {
    const uint64_t* weights = run.weights + channel * k * k * wide;
    for (int64_t column = 0; column < shape.width; ++column) {
      int32_t valid = 0, mismatches = 0;
      for (int64_t dy = 0; dy < k; ++dy) {
        const int64_t from_row = row + dy - half;
        if (from_row < 0 || from_row >= shape.height) continue;
        for (int64_t dx = 0; dx < k; ++dx) {
          const int64_t from_column = column + dx - half;
          if (from_column < 0 || from_column >= shape.width) continue;
          const uint64_t* a = activations + (from_row * shape.width + from_column) * wide;
          const uint64_t* w = weights + (dy * k + dx) * wide;
          for (int64_t j = 0; j < wide; ++j) mismatches += ones(a[j] ^ w[j]);
          valid += static_cast<int32_t>(shape.in_channels);
        }
      }
      const int32_t sum = valid - 2 * mismatches;
      const int64_t offset =
          ((image * shape.out_channels + channel) * shape.height + row) * shape.width + column;
      if (problem.sums) {
        problem.sums[offset] = sum;
      } else {
        problem.y[offset] = epilogue(problem, channel, offset, sum);
      }
    }
  }
}

bool run(const Problem& problem, const void* packed, const Parallel& parallel) {
  const Shape& shape = problem.shape;
  const int64_t rows = shape.batch * shape.height, pixels = rows * shape.width;
  uint64_t* activations = static_cast<uint64_t*>(
      run_scratch(static_cast<size_t>(pixels * long_words(shape)) * sizeof(uint64_t)));
  if (!activations) return false;
  PortableRun state{&problem, static_cast<const uint64_t*>(packed), activations};
  const int64_t work =
      pixels * shape.in_channels * shape.out_channels * shape.kernel * shape.kernel;
  run_tasks(parallel, work, static_cast<size_t>(rows), pack_row, &state);
  run_tasks(parallel, work, static_cast<size_t>(rows), convolve_row, &state);
  free_run_scratch(activations);
  return true;
}

}  // namespace

extern const Kernel kPortable = {"portable", packed_bytes, pack, run, 0, &kPortableScaled};

}  // namespace bidiff
