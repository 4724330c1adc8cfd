// The grid of a scaled convolution, its weights' form, and packing. Unnamed namespace as in
// bitslice.h.
#pragma once

#include <string.h>

#include "inline.h"
#include "support.h"

namespace bidiff {
namespace {

constexpr int kTileVectors = 2, kTileChannels = 4;
constexpr int64_t kLinePixels = 64;       // of a line for k = 1
constexpr int64_t kPackedLines = 4;       // lines that a task packs
constexpr int64_t kBandBytes = 24 << 10;  // of packed words, which stay in the L1 cache
constexpr int64_t kScaledTasks = 4;       // a processor
constexpr int kRows = 4;                  // of `down` that are multiplied at a time

struct ScaledRun {
  const Problem* problem;
  const uint32_t* weights;  // [Cout/4][tap][word][4], padding bits cleared
  int64_t words;
  int64_t lines, line;  // of an image, pixels of each
  int64_t pitch;        // cells from line to line
  int64_t lead, plane;  // cells before line 0, and of a plane
  int64_t band;         // lines convolved at a time
  int64_t task_groups;  // groups of output channels of a task
  float full;           // Cin / 2
  int64_t image;
  uint32_t *bits, *filled;  // planes of words: x >= 0, x != 0
  float *scale, *half;      // planes: mean |x|, half the number of x != 0
  float* low;               // `rank` planes
  volatile int zeros;       // whether any x is 0
  TaskFailure failure;

  BIDIFF_INLINE_MEMBER int64_t cell(int64_t at) const { return lead + at * pitch; }
  BIDIFF_INLINE_MEMBER int64_t first_pixel(int64_t at) const { return at * line; }
  BIDIFF_INLINE_MEMBER int64_t pixels_of(int64_t at) const {
    const int64_t left = problem->shape.height * problem->shape.width - at * line;
    return left < line ? left : line;
  }
};

BIDIFF_INLINE int64_t tile_groups(const Shape& shape) {
  return (shape.out_channels + kTileChannels - 1) / kTileChannels;
}

size_t scaled_packed_bytes(const Shape& shape) {
  return static_cast<size_t>(tile_groups(shape) * kTileChannels * shape.kernel * shape.kernel *
                             words_per_tap(shape)) *
         sizeof(uint32_t);
}

void scaled_pack(const Shape& shape, const int32_t* words, void* packed) {
  uint32_t* out = static_cast<uint32_t*>(packed);
  const int64_t per_tap = words_per_tap(shape), of_channel = shape.kernel * shape.kernel * per_tap;
  const int64_t rest = shape.in_channels % kWordBits;
  for (int64_t channel = 0; channel < tile_groups(shape) * kTileChannels; ++channel) {
    uint32_t* group = out + channel / kTileChannels * of_channel * kTileChannels;
    for (int64_t i = 0; i < of_channel; ++i) {
      uint32_t word = 0;
      if (channel < shape.out_channels)
        word = static_cast<uint32_t>(words[channel * of_channel + i]);
      if (rest && i % per_tap == per_tap - 1) word &= (uint32_t{1} << rest) - 1;
      group[i * kTileChannels + channel % kTileChannels] = word;
    }
  }
}

template <class Vec>
BIDIFF_INLINE void lay_grid(const Problem& problem, const void* packed, ScaledRun* run) {
  const Shape& shape = problem.shape;
  const int64_t half = shape.kernel / 2, pixels = shape.height * shape.width;
  constexpr int64_t kTile = kTileVectors * Vec::kLanes;
  run->problem = &problem;
  run->weights = static_cast<const uint32_t*>(packed);
  run->words = words_per_tap(shape);
  run->full = static_cast<float>(shape.in_channels) * 0.5f;
  run->line = half ? shape.width : kLinePixels;
  run->lines = half ? shape.height : (pixels + kLinePixels - 1) / kLinePixels;
  run->pitch = run->line + half;
  run->lead = half * run->pitch + Vec::kLanes;
  // A line below, and what the last tile reads beyond it.
  const int64_t cells = run->lead + (run->lines + half) * run->pitch + half + kTile;
  run->plane = (cells / 16 | 1) * 16 + 16;  // an odd number of cache lines, against aliasing
  const int64_t line_bytes = run->pitch * run->words * int64_t{sizeof(uint32_t)};
  run->band = kBandBytes / line_bytes > 1 ? kBandBytes / line_bytes : 1;
  const int64_t tasks = kScaledTasks * processors();
  run->task_groups = (tile_groups(shape) + tasks - 1) / tasks;
}

// Scales outside the image are 0; so is all that is multiplied by them, lest it be NaN.
BIDIFF_INLINE void clear_grid(ScaledRun* run, void* memory) {
  run->bits = static_cast<uint32_t*>(memory);
  run->filled = run->bits + run->words * run->plane;
  run->scale = reinterpret_cast<float*>(run->filled + run->words * run->plane);
  run->half = run->scale + run->plane;
  run->low = run->half + run->plane;
  const int64_t floats = (2 + run->problem->branches->rank) * run->plane;
  memset(run->scale, 0, static_cast<size_t>(floats) * sizeof(float));
  run->zeros = 0;
}

// Bits, scale and number of non-zeros of up to kLanes pixels at x, stored at a cell.
template <class Vec, class Count>
BIDIFF_INLINE bool pack_pixels(const ScaledRun& run, const float* x, int lanes, int64_t cell) {
  using Floats = typename Vec::Floats;
  using Bits = typename Vec::Bits;
  const Shape& shape = run.problem->shape;
  const int64_t plane = shape.height * shape.width, channels = shape.in_channels;
  Floats total = Vec::broadcast_float(0.0f);
  Bits count = Vec::zero();
  for (int64_t first = 0; first < channels; first += kWordBits) {
    const int64_t past = first + kWordBits < channels ? first + kWordBits : channels;
    Bits bits = Vec::zero(), filled = Vec::zero();
    Floats part = Vec::broadcast_float(0.0f);
    for (int64_t channel = first; channel < past; ++channel) {
      const Floats value = Vec::load_floats(x + channel * plane, lanes);
      const Bits bit = Vec::broadcast(uint32_t{1} << (channel - first));
      bits = Vec::mark_positive(bits, value, bit);
      filled = Vec::mark_filled(filled, value, bit);
      part = Vec::add_float(part, Vec::magnitude(value));
    }
    const int64_t at = first / kWordBits * run.plane + cell;
    Vec::store_integers(reinterpret_cast<int32_t*>(run.bits + at), bits, lanes);
    Vec::store_integers(reinterpret_cast<int32_t*>(run.filled + at), filled, lanes);
    count = Count::accumulate(count, Count::add(Vec::zero(), filled));
    total = Vec::add_float(total, part);
  }
  const Floats scale = Vec::divide(total, Vec::broadcast_float(static_cast<float>(channels)));
  const Floats half = Vec::multiply(Vec::to_float(count), Vec::broadcast_float(0.5f));
  Vec::store_floats(run.scale + cell, scale, lanes);
  Vec::store_floats(run.half + cell, half, lanes);
  bool zeros = false;
  for (int i = 0; i < lanes; ++i) zeros |= run.half[cell + i] != run.full;
  return zeros;
}

// down . x of up to kLanes pixels, kRows rows at a time.
template <class Vec>
BIDIFF_INLINE void multiply_down(const ScaledRun& run, const float* x, int lanes, int64_t cell) {
  using Floats = typename Vec::Floats;
  const Shape& shape = run.problem->shape;
  const Branches& branches = *run.problem->branches;
  const int64_t plane = shape.height * shape.width, channels = shape.in_channels;
  for (int64_t row = 0; row < branches.rank; row += kRows) {
    const int64_t rows = branches.rank - row < kRows ? branches.rank - row : kRows;
    const float* down[kRows];
    Floats sums[kRows];
    for (int i = 0; i < kRows; ++i) {
      down[i] = branches.down + (row + (i < rows ? i : 0)) * channels;
      sums[i] = Vec::broadcast_float(0.0f);
    }
    for (int64_t first = 0; first < channels; first += kWordBits) {
      const int64_t past = first + kWordBits < channels ? first + kWordBits : channels;
      Floats parts[kRows];
      for (int i = 0; i < kRows; ++i) parts[i] = Vec::broadcast_float(0.0f);
      for (int64_t channel = first; channel < past; ++channel) {
        const Floats value = Vec::load_floats(x + channel * plane, lanes);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          const Floats factor = Vec::broadcast_float(down[i][channel]);
          parts[i] = Vec::add_float(parts[i], Vec::multiply(factor, value));
        }
      }
      for (int i = 0; i < kRows; ++i) sums[i] = Vec::add_float(sums[i], parts[i]);
    }
    for (int i = 0; i < rows; ++i) {
      Vec::store_floats(run.low + (row + i) * run.plane + cell, sums[i], lanes);
    }
  }
}

template <class Vec, class Count>
void pack_lines(void* user, size_t index) {
  ScaledRun& run = *static_cast<ScaledRun*>(user);
  const Shape& shape = run.problem->shape;
  const int64_t plane = shape.height * shape.width;
  const int64_t first = static_cast<int64_t>(index) * kPackedLines;
  const int64_t past = first + kPackedLines < run.lines ? first + kPackedLines : run.lines;
  for (int64_t line = first; line < past; ++line) {
    const int64_t pixels = run.pixels_of(line);
    const float* x = run.problem->x + run.image * shape.in_channels * plane + run.first_pixel(line);
    for (int64_t i = 0; i < pixels; i += Vec::kLanes) {
      const int lanes = pixels - i < Vec::kLanes ? static_cast<int>(pixels - i) : Vec::kLanes;
      if (pack_pixels<Vec, Count>(run, x + i, lanes, run.cell(line) + i)) {
        __atomic_store_n(&run.zeros, 1, __ATOMIC_RELAXED);
      }
      multiply_down<Vec>(run, x + i, lanes, run.cell(line) + i);
    }
  }
}

}  // namespace
}  // namespace bidiff
