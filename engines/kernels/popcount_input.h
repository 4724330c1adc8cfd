// From float rows to the packed words of a band. Unnamed namespace as in bitslice.h.
//
// Eight channels at a time: their bits of 16 pixels are collected in a register, and eight streams
// still fit the ways of the L1 cache if planes are a multiple of 4 KB apart. A hardware prefetcher
// starts over on each of these short runs, so a step's input is prefetched by instruction while the
// step before it is packed, or while another band is counted.
#pragma once

#include <string.h>

#include "popcount_weights.h"
#include "support.h"

namespace bidiff {
namespace {

constexpr int kStreams = 8;              // channels packed at a time
constexpr int64_t kStepBytes = 2 << 10;  // about what a step reads of one channel
constexpr int64_t kLine = 64;

struct PopcountRun {
  const Problem* problem;
  const int32_t* offsets;
  const uint32_t* words;
  int64_t half;                    // rows above and below that an output row needs
  int64_t slots;                   // vectors in a row
  int64_t rows;                    // output rows of a band
  int64_t task_rows, tasks;        // output rows of a task, tasks of an image
  int64_t row_words, plane_words;  // strides of a packed band
  int64_t h_stride;                // floats between channels of h
  bool streams;                    // y is written past the caches
  TaskFailure failure;
};

// Scratch of a task. Row 0 of a packed band is the band's top row - half; pixel 0 is at word
// kLanes, so that the pixel to its left exists and aligned stores stay aligned. The zeros between
// two rows pad the right of one and the left of the next. h has the same rows.
struct PopcountTask {
  const PopcountRun* run;
  int64_t image;
  uint32_t* words[2];
  float* h;
};

BIDIFF_INLINE const float* input_plane(const Problem& problem, int64_t image, int64_t channel) {
  const Shape& shape = problem.shape;
  const int64_t plane = image * shape.in_channels + channel;
  return problem.planes ? problem.planes[plane] : problem.x + plane * shape.height * shape.width;
}

// The rows that one band needs and the previous one did not pack, step by step: a step is kStreams
// channels of some rows.
struct Preparation {
  const PopcountTask* task;
  uint32_t* words;      // of the band
  int64_t top;          // image row of the band's row 0
  int64_t first, last;  // image rows to pack
  int64_t carried;      // rows of the previous band at the start of this one
  int64_t step_rows, row_steps, steps, packed;
  int64_t lines_at_once;     // fetched between two tiles of the band that is being counted
  int64_t fetched, channel;  // the run of a channel's rows that is being fetched
  const char* line;          // its next line
  int64_t lines;             // and how many are left
};

template <class Vec, int kCount>
BIDIFF_INLINE void pack_row(const float* const* from, const typename Vec::Floats* thresholds,
                            int count, int first_bit, int64_t width, uint32_t* words) {
  if (kCount) count = kCount;
  const bool fresh = first_bit == 0;
  int64_t at = 0;
  for (; at + Vec::kLanes <= width; at += Vec::kLanes) {
    typename Vec::Bits* to = reinterpret_cast<typename Vec::Bits*>(words + at);
    typename Vec::Bits bits = fresh ? Vec::zero() : Vec::load(to);
#pragma GCC unroll 8
    for (int c = 0; c < count; ++c) {
      bits = Vec::pack_slot(bits, from[c] + at, thresholds[c], uint32_t{1} << (first_bit + c));
    }
    Vec::store(to, bits);
  }
  if (at < width) {
    const int rest = static_cast<int>(width - at);
    typename Vec::Bits* to = reinterpret_cast<typename Vec::Bits*>(words + at);
    typename Vec::Bits bits = fresh ? Vec::zero() : Vec::load(to);
    for (int c = 0; c < count; ++c) {
      bits =
          Vec::pack_part(bits, from[c] + at, rest, thresholds[c], uint32_t{1} << (first_bit + c));
    }
    Vec::store(to, bits);
  }
}

// Rows [row, last) of channels [channel, channel + count), where `planes` is their image row 0.
template <class Vec>
__attribute__((noinline)) void pack_rows(const Preparation& work, const float* const* planes,
                                         int64_t channel, int count, int64_t row, int64_t last) {
  const PopcountRun& run = *work.task->run;
  const float* thresholds = run.problem->threshold;
  const int64_t width = run.problem->shape.width;
  const float* from[kStreams];
  typename Vec::Floats added[kStreams];
  for (int c = 0; c < kStreams; ++c) {
    const int given = c < count ? c : 0;
    from[c] = planes[given] + row * width;
    added[c] = Vec::broadcast_float(thresholds ? thresholds[channel + given] : 0.0f);
  }
  const int first_bit = static_cast<int>(channel % kWordBits);
  uint32_t* to = work.words + channel / kWordBits * run.plane_words +
                 (row - work.top) * run.row_words + Vec::kLanes;
  for (; row < last; ++row, to += run.row_words) {
    if (count == kStreams) {
      pack_row<Vec, kStreams>(from, added, count, first_bit, width, to);
    } else {
      pack_row<Vec, 0>(from, added, count, first_bit, width, to);
    }
    for (int c = 0; c < kStreams; ++c) from[c] += width;
  }
}

BIDIFF_INLINE int streams_from(const Shape& shape, int64_t channel) {
  const int64_t left = shape.in_channels - channel;
  return left < kStreams ? static_cast<int>(left) : kStreams;
}

template <class Vec>
BIDIFF_INLINE void pack_step(Preparation* work) {
  const Problem& problem = *work->task->run->problem;
  const int64_t step = work->packed++, channel = step / work->row_steps * kStreams;
  const int64_t row = work->first + step % work->row_steps * work->step_rows;
  const int64_t last = row + work->step_rows < work->last ? row + work->step_rows : work->last;
  const int count = streams_from(problem.shape, channel);
  const float* planes[kStreams];
  for (int c = 0; c < count; ++c) planes[c] = input_plane(problem, work->task->image, channel + c);
  pack_rows<Vec>(*work, planes, channel, count, row, last);
}

BIDIFF_INLINE void fetch_run(Preparation* work) {
  const Problem& problem = *work->task->run->problem;
  const int64_t channel = work->fetched / work->row_steps * kStreams + work->channel;
  const int64_t row = work->first + work->fetched % work->row_steps * work->step_rows;
  const int64_t last = row + work->step_rows < work->last ? row + work->step_rows : work->last;
  const int64_t width = problem.shape.width;
  work->line =
      reinterpret_cast<const char*>(input_plane(problem, work->task->image, channel) + row * width);
  work->lines = ((last - row) * width * 4 + kLine - 1) / kLine;
}

// Advances to the next run, and packs the step before the one that is being fetched.
template <class Vec>
__attribute__((noinline)) void next_run(Preparation* work) {
  const Shape& shape = work->task->run->problem->shape;
  const int64_t block = work->fetched / work->row_steps * kStreams;
  if (++work->channel == streams_from(shape, block)) {
    work->channel = 0;
    if (work->fetched++ > 0) pack_step<Vec>(work);
    if (work->fetched == work->steps) return;
  }
  fetch_run(work);
}

// Fetches the next `count` lines.
template <class Vec>
BIDIFF_INLINE void advance(Preparation* work, int64_t count) {
  while (count > 0 && work->fetched < work->steps) {
    const int64_t lines = count < work->lines ? count : work->lines;
    const char* line = work->line;
    for (int64_t i = 0; i < lines; ++i) Vec::prefetch(line + i * kLine);
    work->line += lines * kLine;
    work->lines -= lines;
    count -= lines;
    if (work->lines == 0) next_run<Vec>(work);
  }
}

template <class Vec>
BIDIFF_INLINE void finish_preparation(Preparation* work) {
  while (work->fetched < work->steps) advance<Vec>(work, work->lines);
  while (work->packed < work->steps) pack_step<Vec>(work);
}

// h = swish(a * x + b) of all rows to pack, kept as the residual, and packed from there.
template <class Vec>
BIDIFF_INLINE void normalise_and_pack(Preparation* work) {
  const PopcountTask& task = *work->task;
  const PopcountRun& run = *task.run;
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  // As many lines as a core can have in flight are fetched while as many are computed.
  constexpr int64_t kRun = 256;
  const int64_t count = (work->last - work->first) * shape.width;
  const int64_t start = work->first * shape.width, width = shape.width;
  for (int64_t block = 0; block < shape.in_channels; block += kStreams) {
    const int streams = streams_from(shape, block);
    const float* planes[kStreams];
    for (int c = 0; c < streams; ++c) {
      const int64_t channel = block + c;
      const float* pair = problem.affine + (task.image * shape.in_channels + channel) * 2;
      float* h = task.h + channel * run.h_stride;
      if (work->carried) {  // the last of its rows is this band's first row of outputs
        memcpy(h + run.half * width, h + (run.rows + run.half) * width,
               static_cast<size_t>(width) * sizeof(float));
      }
      const float* x = input_plane(problem, task.image, channel) + start;
      const float* next = channel + 1 < shape.in_channels
                              ? input_plane(problem, task.image, channel + 1) + start
                              : x;
      float* to = h + (work->first - work->top) * width;
      for (int64_t at = 0; at < count; at += kRun) {
        const int64_t run_count = count - at < kRun ? count - at : kRun;
        for (int64_t i = 0; i < run_count; i += kLine / 4) Vec::prefetch(next + at + i);
        problem.affine_swish(x + at, pair[0], pair[1], static_cast<size_t>(run_count), to + at);
      }
      planes[c] = h - work->top * width;
    }
    pack_rows<Vec>(*work, planes, block, streams, work->first, work->last);
  }
  work->packed = work->fetched = work->steps;
}

// Copies this band's rows that the previous band has packed, clears rows outside the image, and
// returns what is left to pack. `before` is null for the first band of a task.
BIDIFF_INLINE Preparation prepare_band(const PopcountTask& task, int64_t band_top,
                                       const uint32_t* before, uint32_t* words) {
  const PopcountRun& run = *task.run;
  const Shape& shape = run.problem->shape;
  const int64_t shared = before ? 2 * run.half : 0, rows = run.rows + 2 * run.half;
  Preparation work{};
  work.task = &task;
  work.words = words;
  work.top = band_top - run.half;
  work.carried = shared;
  work.first = work.top + shared > 0 ? work.top + shared : 0;
  work.last = work.top + rows < shape.height ? work.top + rows : shape.height;
  const size_t row_bytes = static_cast<size_t>(run.row_words) * sizeof(uint32_t);
  for (int64_t plane = 0; plane < words_per_tap(shape); ++plane) {
    uint32_t* to = words + plane * run.plane_words;
    if (before) {
      memcpy(to, before + plane * run.plane_words + run.rows * run.row_words,
             static_cast<size_t>(shared) * row_bytes);
    }
    if (work.last < work.top + rows) {
      memset(to + (work.last - work.top) * run.row_words, 0, row_bytes);
    }
  }
  const int64_t count = work.last > work.first ? work.last - work.first : 0;
  work.step_rows = kStepBytes / (shape.width * 4) > 1 ? kStepBytes / (shape.width * 4) : 1;
  work.row_steps = (count + work.step_rows - 1) / work.step_rows;
  work.steps = work.row_steps * ((shape.in_channels + kStreams - 1) / kStreams);
  if (work.steps > 0) fetch_run(&work);
  return work;
}

}  // namespace
}  // namespace bidiff
