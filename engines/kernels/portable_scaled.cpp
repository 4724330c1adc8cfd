// The scaled convolution (binary_conv.h) for every architecture, and the oracle the others are
// tested against: every output visits the taps inside the image one by one.
#include <string.h>

#include "binary_conv.h"
#include "portable.h"
#include "support.h"

namespace bidiff {
namespace {

struct ScaledRun {
  const Problem* problem;
  const uint32_t* weights;
  uint32_t *bits, *filled;  // (N, H, W, ceil(Cin/32)): x >= 0, and x != 0
  float *scale, *half;      // (N, H, W): mean |x|, and half the number of x != 0
  float* low;               // (N, H, W, rank)
};

void pack(const Shape& shape, const int32_t* words, void* packed) {
  uint32_t* out = static_cast<uint32_t*>(packed);
  const int64_t taps = shape.out_channels * shape.kernel * shape.kernel;
  const int64_t per_tap = words_per_tap(shape), rest = shape.in_channels % kWordBits;
  for (int64_t i = 0; i < taps * per_tap; ++i) {
    out[i] = static_cast<uint32_t>(words[i]);
    if (rest && i % per_tap == per_tap - 1) out[i] &= (uint32_t{1} << rest) - 1;
  }
}

size_t packed_bytes(const Shape& shape) {
  return static_cast<size_t>(shape.out_channels * shape.kernel * shape.kernel *
                             words_per_tap(shape)) *
         sizeof(uint32_t);
}

void pack_pixel(const ScaledRun& run, int64_t image, int64_t pixel) {
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const Branches& branches = *problem.branches;
  const int64_t plane = shape.height * shape.width, words = words_per_tap(shape);
  const float* x = problem.x + image * shape.in_channels * plane + pixel;
  const int64_t at = image * plane + pixel;
  float total = 0;
  int32_t count = 0;
  for (int64_t word = 0; word < words; ++word) {
    const int64_t first = word * kWordBits;
    const int64_t past =
        first + kWordBits < shape.in_channels ? first + kWordBits : shape.in_channels;
    uint32_t bits = 0, filled = 0;
    float part = 0;
    for (int64_t channel = first; channel < past; ++channel) {
      const float value = x[channel * plane];
      bits |= static_cast<uint32_t>(value >= 0.0f) << (channel - first);
      filled |= static_cast<uint32_t>(value != 0.0f) << (channel - first);
      part = part + __builtin_fabsf(value);
    }
    run.bits[at * words + word] = bits;
    run.filled[at * words + word] = filled;
    count += ones(filled);
    total = total + part;
  }
  run.scale[at] = total / static_cast<float>(shape.in_channels);
  run.half[at] = static_cast<float>(count) * 0.5f;
  for (int64_t row = 0; row < branches.rank; ++row) {
    float sum = 0;
    for (int64_t first = 0; first < shape.in_channels; first += kWordBits) {
      float part = 0;
      for (int64_t i = first; i < first + kWordBits && i < shape.in_channels; ++i) {
        part = part + branches.down[row * shape.in_channels + i] * x[i * plane];
      }
      sum = sum + part;
    }
    run.low[at * branches.rank + row] = sum;
  }
}

float scaled_sum(const ScaledRun& run, int64_t image, int64_t channel, int64_t y, int64_t x) {
  const Shape& shape = run.problem->shape;
  const int64_t k = shape.kernel, words = words_per_tap(shape);
  float sum = 0;
  for (int64_t tap = 0; tap < k * k; ++tap) {
    const int64_t row = y + tap / k - k / 2, column = x + tap % k - k / 2;
    if (row < 0 || row >= shape.height || column < 0 || column >= shape.width) continue;
    const int64_t at = (image * shape.height + row) * shape.width + column;
    const uint32_t* weights = run.weights + (channel * k * k + tap) * words;
    int32_t mismatches = 0;
    for (int64_t word = 0; word < words; ++word) {
      mismatches +=
          ones((run.bits[at * words + word] ^ weights[word]) & run.filled[at * words + word]);
    }
    sum = sum + run.scale[at] * (run.half[at] - static_cast<float>(mismatches));
  }
  return sum;
}

void pack_row(void* user, size_t index) {
  const ScaledRun& run = *static_cast<const ScaledRun*>(user);
  const Shape& shape = run.problem->shape;
  const int64_t image = static_cast<int64_t>(index) / shape.height;
  const int64_t first = static_cast<int64_t>(index) % shape.height * shape.width;
  for (int64_t x = 0; x < shape.width; ++x) pack_pixel(run, image, first + x);
}

void convolve_row(void* user, size_t index) {
  const ScaledRun& run = *static_cast<const ScaledRun*>(user);
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const Branches& branches = *problem.branches;
  const int64_t plane = shape.height * shape.width;
  const int64_t image = static_cast<int64_t>(index) / shape.height;
  const int64_t row = static_cast<int64_t>(index) % shape.height;
  for (int64_t channel = 0; channel < shape.out_channels; ++channel) {
    for (int64_t column = 0; column < shape.width; ++column) {
      const int64_t pixel = row * shape.width + column;
      const float sum = scaled_sum(run, image, channel, row, column);
      float y = problem.alpha[channel] * (sum + sum);
      y = y + problem.rprelu[channel];
      y = y < 0.0f ? problem.rprelu[shape.out_channels + channel] * y : y;
      y = y + problem.rprelu[2 * shape.out_channels + channel];
      const float* low = run.low + (image * plane + pixel) * branches.rank;
      float added = 0;
      for (int64_t i = 0; i < branches.rank; ++i) {
        added = added + branches.up[channel * branches.rank + i] * low[i];
      }
      y = y + added;
      added = 0;
      for (int64_t i = branches.starts[channel]; i < branches.starts[channel + 1]; ++i) {
        const int64_t from = image * shape.in_channels + branches.columns[i];
        added = added + branches.values[i] * problem.x[from * plane + pixel];
      }
      problem.y[(image * shape.out_channels + channel) * plane + pixel] = y + added;
    }
  }
}

bool run(const Problem& problem, const void* packed, const Parallel& parallel) {
  const Shape& shape = problem.shape;
  const int64_t rows = shape.batch * shape.height, pixels = rows * shape.width;
  const int64_t words = words_per_tap(shape), rank = problem.branches->rank;
  uint32_t* memory = static_cast<uint32_t*>(
      run_scratch(static_cast<size_t>(pixels * (2 * words + 2 + rank)) * sizeof(uint32_t)));
  if (!memory) return false;
  ScaledRun state{};
  state.problem = &problem;
  state.weights = static_cast<const uint32_t*>(packed);
  state.bits = memory;
  state.filled = state.bits + pixels * words;
  state.scale = reinterpret_cast<float*>(state.filled + pixels * words);
  state.half = state.scale + pixels;
  state.low = state.half + pixels;
  const int64_t work =
      pixels * shape.in_channels * shape.out_channels * shape.kernel * shape.kernel;
  run_tasks(parallel, work, static_cast<size_t>(rows), pack_row, &state);
  run_tasks(parallel, work, static_cast<size_t>(rows), convolve_row, &state);
  free_run_scratch(memory);
  return true;
}

}  // namespace

extern const Kernel kPortableScaled = {"portable", packed_bytes, pack, run, 0, nullptr};

}  // namespace bidiff
