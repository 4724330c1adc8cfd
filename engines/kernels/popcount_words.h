// Binary convolution with lanes = pixels of 32 channels each, for CPUs that count the ones of every
// 32-bit lane in one instruction.
//
// Activations are packed into planes [ceil(Cin/32)][rows of a band + 2][padded width] of one word a
// pixel, so 16 neighbouring pixels of any tap are one (unaligned) load, and sums come out as 16
// neighbouring outputs. A tile of 4 vectors by 4 output channels keeps 16 counters in registers;
// for each tap and word it does 16 times xor, count, add.
//
// `Vec` is the instruction set's policy, `Count` the population count of its lanes. Unnamed
// namespace as in bitslice.h.
#pragma once

#include <string.h>

#include "border_offsets.h"
#include "float_epilogue.h"
#include "support.h"

namespace bidiff {
namespace {

constexpr int kVectors = 4, kChannels = 4;  // of a tile
constexpr int64_t kOddWords = 16;           // keeps planes off multiples of 4 KB

// Packed: int32 offsets [Cout][kClasses], then words [Cout/4][tap][word][4], padding bits cleared.
BIDIFF_INLINE int64_t channel_groups(const Shape& shape) {
  return (shape.out_channels + kChannels - 1) / kChannels;
}

size_t popcount_packed_bytes(const Shape& shape) {
  const int64_t words = channel_groups(shape) * kChannels * shape.kernel * shape.kernel *
                        words_per_tap(shape);
  return static_cast<size_t>(shape.out_channels * kClasses + words) * sizeof(int32_t);
}

void popcount_pack(const Shape& shape, const int32_t* words, void* packed) {
  int32_t* offsets = static_cast<int32_t*>(packed);
  uint32_t* out = reinterpret_cast<uint32_t*>(offsets + shape.out_channels * kClasses);
  const int64_t taps = shape.kernel * shape.kernel, per_tap = words_per_tap(shape);
  const int64_t rest = shape.in_channels % kWordBits;
  for (int64_t channel = 0; channel < channel_groups(shape) * kChannels; ++channel) {
    const bool exists = channel < shape.out_channels;
    if (exists) pack_offsets(shape, words, channel, offsets + channel * kClasses);
    for (int64_t i = 0; i < taps * per_tap; ++i) {
      uint32_t word = exists ? static_cast<uint32_t>(words[channel * taps * per_tap + i]) : 0;
      if (rest && i % per_tap == per_tap - 1) word &= (uint32_t{1} << rest) - 1;
      out[(channel / kChannels * taps * per_tap + i) * kChannels + channel % kChannels] = word;
    }
  }
}

struct PopcountRun {
  const Problem* problem;
  const int32_t* offsets;
  const uint32_t* words;
  int64_t rows, bands;           // output rows of a band, bands of an image
  int64_t row_words, plane_words;  // strides of a packed band
  TaskFailure failure;
};

// One channel of one row into its bit of the row's words.
template <class Vec>
BIDIFF_INLINE void pack_words_row(const float* x, int64_t width, float threshold, uint32_t bit,
                                  uint32_t* words) {
  const typename Vec::Floats thresholds = Vec::broadcast_float(threshold);
  int64_t at = 0;
  for (; at + Vec::kLanes <= width; at += Vec::kLanes) {
    typename Vec::Bits* to = reinterpret_cast<typename Vec::Bits*>(words + at);
    Vec::store(to, Vec::pack_slot(Vec::load(to), x + at, thresholds, bit));
  }
  if (at < width) {
    typename Vec::Bits* to = reinterpret_cast<typename Vec::Bits*>(words + at);
    Vec::store(to, Vec::pack_part(Vec::load(to), x + at, static_cast<int>(width - at), thresholds,
                                  bit));
  }
}

// Rows [top - 1, top + rows] of an image; what lies outside stays 0. A row's pixel 0 is at word
// kLanes, so that the pixel left of it exists and aligned stores stay aligned.
template <class Vec>
BIDIFF_INLINE void pack_band(const PopcountRun& run, int64_t image, int64_t top, uint32_t* band) {
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const int64_t planes = words_per_tap(shape), half = shape.kernel / 2;
  memset(band, 0, static_cast<size_t>(planes * run.plane_words) * sizeof(uint32_t));
  for (int64_t channel = 0; channel < shape.in_channels; ++channel) {
    const float threshold = problem.threshold ? problem.threshold[channel] : 0.0f;
    const uint32_t bit = uint32_t{1} << (channel % kWordBits);
    uint32_t* plane = band + channel / kWordBits * run.plane_words;
    for (int64_t row = -half; row < run.rows + half; ++row) {
      const int64_t y = top + row;
      if (y < 0 || y >= shape.height) continue;
      const float* x = problem.x +
                       ((image * shape.in_channels + channel) * shape.height + y) * shape.width;
      pack_words_row<Vec>(x, shape.width, threshold, bit,
                          plane + (row + 1) * run.row_words + Vec::kLanes);
    }
  }
}

// Mismatches of kVectors positions with kChannels output channels.
template <class Vec, class Count>
BIDIFF_INLINE void count_tile(const PopcountRun& run, const uint32_t* const* at,
                              const uint32_t* weights,
                              typename Vec::Bits counts[kChannels][kVectors]) {
  using Bits = typename Vec::Bits;
  const Shape& shape = run.problem->shape;
  const int64_t k = shape.kernel, half = k / 2, planes = words_per_tap(shape);
  Bits sums[kChannels][kVectors];
  for (int c = 0; c < kChannels; ++c) {
    for (int v = 0; v < kVectors; ++v) sums[c][v] = Vec::zero();
  }
  for (int64_t tap = 0; tap < k * k; ++tap) {
    int64_t from = (tap / k - half) * run.row_words + tap % k - half;
    for (int64_t plane = 0; plane < planes; ++plane, from += run.plane_words) {
      Bits inputs[kVectors];
      for (int v = 0; v < kVectors; ++v) inputs[v] = Vec::load_unaligned(at[v] + from);
      for (int c = 0; c < kChannels; ++c) {
        const Bits weight = Vec::broadcast(weights[c]);
        for (int v = 0; v < kVectors; ++v) {
          sums[c][v] = Vec::add(sums[c][v], Count::ones(Vec::differ(inputs[v], weight)));
        }
      }
      weights += kChannels;
    }
  }
  memcpy(counts, sums, sizeof(sums));
}

template <class Vec, class Sink>
BIDIFF_INLINE void finish_vector(const PopcountRun& run, const Sink& sink, const int32_t* offsets,
                                 typename Vec::Bits count, int64_t start, int64_t y, int64_t x) {
  const Shape& shape = run.problem->shape;
  const int border = (y == 0 ? 1 : 0) | (y == shape.height - 1 ? 2 : 0);
  const int64_t rest = shape.width - x;
  typename Vec::Bits offset = Vec::broadcast(static_cast<uint32_t>(offsets[border]));
  if (rest <= Vec::kLanes) offset = Vec::put(offset, static_cast<int>(rest) - 1, offsets[border | 8]);
  if (x == 0) offset = Vec::put(offset, 0, offsets[border | 4 | (rest == 1 ? 8 : 0)]);
  const typename Vec::Bits sum = Vec::subtract(offset, Vec::template shift_left<1>(count));
  const int64_t at = start + y * shape.width + x;
  if (rest >= Vec::kLanes) {
    sink.full(sum, at);
  } else {
    sink.part(sum, at, static_cast<int>(rest));
  }
}

template <class Vec, class Count, class Sink>
BIDIFF_INLINE void convolve_band(const PopcountRun& run, int64_t image, int64_t top,
                                 const uint32_t* band) {
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const int64_t rows = run.rows < shape.height - top ? run.rows : shape.height - top;
  const int64_t slots = (shape.width + Vec::kLanes - 1) / Vec::kLanes, positions = rows * slots;
  const int64_t group_words = shape.kernel * shape.kernel * words_per_tap(shape) * kChannels;
  for (int64_t group = 0; group < channel_groups(shape); ++group) {
    const int64_t first = group * kChannels, left = shape.out_channels - first;
    const int channels = left < kChannels ? static_cast<int>(left) : kChannels;
    for (int64_t position = 0; position < positions; position += kVectors) {
      const uint32_t* at[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        const int64_t p = position + v < positions ? position + v : position;
        at[v] = band + (p / slots + 1) * run.row_words + (p % slots + 1) * Vec::kLanes;
      }
      typename Vec::Bits counts[kChannels][kVectors];
      count_tile<Vec, Count>(run, at, run.words + group * group_words, counts);
      for (int c = 0; c < channels; ++c) {
        const Sink sink(problem, first + c);
        const int64_t start =
            (image * shape.out_channels + first + c) * shape.height * shape.width;
        for (int v = 0; v < kVectors && position + v < positions; ++v) {
          const int64_t p = position + v;
          finish_vector<Vec>(run, sink, run.offsets + (first + c) * kClasses, counts[c][v], start,
                             top + p / slots, p % slots * Vec::kLanes);
        }
      }
    }
  }
}

template <class Vec, class Count>
void popcount_task(void* user, size_t index) {
  PopcountRun& run = *static_cast<PopcountRun*>(user);
  const Shape& shape = run.problem->shape;
  const int64_t image = static_cast<int64_t>(index) / run.bands;
  const int64_t top = static_cast<int64_t>(index) % run.bands * run.rows;
  const size_t bytes =
      static_cast<size_t>(words_per_tap(shape) * run.plane_words) * sizeof(uint32_t);
  uint32_t* band = static_cast<uint32_t*>(thread_scratch(1, bytes));
  if (!band) return mark_failed(&run.failure);
  pack_band<Vec>(run, image, top, band);
  if (run.problem->sums) {
    convolve_band<Vec, Count, IntegerSink<Vec>>(run, image, top, band);
  } else {
    convolve_band<Vec, Count, FloatSink<Vec>>(run, image, top, band);
  }
}

template <class Vec, class Count>
bool popcount_run(const Problem& problem, const void* packed, const Parallel& parallel) {
  const Shape& shape = problem.shape;
  PopcountRun run;
  run.problem = &problem;
  run.offsets = static_cast<const int32_t*>(packed);
  run.words = reinterpret_cast<const uint32_t*>(run.offsets + shape.out_channels * kClasses);
  const int64_t slots = (shape.width + Vec::kLanes - 1) / Vec::kLanes;
  run.rows = slots <= 2 ? 8 : 4;
  run.bands = (shape.height + run.rows - 1) / run.rows;
  run.row_words = (slots + 2) * Vec::kLanes;
  run.plane_words = (run.rows + 2) * run.row_words + kOddWords;
  const int64_t work = shape.batch * shape.out_channels * shape.height * shape.width *
                       shape.in_channels * shape.kernel * shape.kernel;
  run_tasks(parallel, work, static_cast<size_t>(shape.batch * run.bands),
            popcount_task<Vec, Count>, &run);
  return !run.failure.failed;
}

}  // namespace
}  // namespace bidiff
