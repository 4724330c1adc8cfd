// From the counters of a unit to its outputs: border offsets, float epilogue, stores. Positions are
// counted from the unit's first pixel.
#pragma once

#include "bitslice_pack.h"
#include "float_epilogue.h"

namespace bidiff {
namespace {

template <class Vec>
BIDIFF_INLINE typename Vec::Bits* counters_of(const Work<Vec>& work, int64_t unit) {
  return work.counters + unit % 2 * work.run->cut.channels_per_task * work.run->sizes.planes;
}

// Offsets of the first, inner and last slot of a row, for one vertical border class of a channel.
template <class Vec>
struct RowOffsets {
  typename Vec::Bits first, inner, last;

  RowOffsets(const int32_t* offsets, int border, int64_t left, int64_t width) {
    const int64_t rest = width - left;  // of the row, from this tile on
    const int64_t slots = (rest + Vec::kLanes - 1) / Vec::kLanes;
    inner = first = last = Vec::broadcast(static_cast<uint32_t>(offsets[border]));
    if (slots <= kSlots) {
      const int end = static_cast<int>(rest - (slots - 1) * Vec::kLanes) - 1;
      last = Vec::put(last, end, offsets[border | 8]);
      if (slots == 1) first = last;
    }
    if (left == 0) first = Vec::put(first, 0, offsets[border | 4 | (rest == 1 ? 8 : 0)]);
  }
};

template <class Vec, class Sink>
BIDIFF_INLINE void finish_row(const Sink& sink, const RowOffsets<Vec>& offsets,
                              const typename Vec::Bits* counts, int64_t at, int64_t rest) {
  const int full = rest / Vec::kLanes < kSlots ? static_cast<int>(rest / Vec::kLanes) : kSlots;
  const int part = rest < kSlots * Vec::kLanes ? static_cast<int>(rest % Vec::kLanes) : 0;
  if (full == 0) {
    sink.part(Vec::subtract(offsets.first, Vec::load(counts)), at, part);
    return;
  }
  sink.full(Vec::subtract(offsets.first, Vec::load(counts)), at);
  const int inner = part ? full : full - 1;
  for (int slot = 1; slot < inner; ++slot) {
    sink.full(Vec::subtract(offsets.inner, Vec::load(counts + slot)), at + slot * Vec::kLanes);
  }
  if (part) {
    sink.part(Vec::subtract(offsets.last, Vec::load(counts + full)), at + full * Vec::kLanes, part);
  } else if (full > 1) {
    sink.full(Vec::subtract(offsets.last, Vec::load(counts + full - 1)),
              at + (full - 1) * Vec::kLanes);
  }
}

// Where the outputs of a unit's channel are, which begins at pixel `first` of its plane.
template <class Vec>
BIDIFF_INLINE Places places_of(const Work<Vec>& work, int64_t unit, int64_t channel,
                               int64_t first) {
  const Problem& problem = *work.run->problem;
  const Shape& shape = problem.shape;
  const int64_t plane = work.image * shape.out_channels + channel;
  const int64_t at = plane * shape.height * shape.width + first;
  Places places{};
  if (problem.residual_is_input) {
    places.residual =
        problem.affine ? h_of(work, unit, channel) : input_plane(problem, plane) + first;
  } else if (problem.residual && !problem.residual_is_scalar) {
    places.residual = problem.residual + at;
  }
  if (problem.skip) places.skip = problem.skip + at;
  if (problem.sums) {
    places.sums = problem.sums + at;
  } else if (problem.store == Store::kPlain) {
    places.y = problem.y + at;
    places.streams = work.run->streams;
  } else {
    places.y = work.lines + channel % 2 * work.run->unit_pixels;
  }
  return places;
}

// Rows of `width` pixels from a unit's row `top` on, of channels channel - 1 and channel: every
// second pixel of the rows of one plane.
template <class Vec>
BIDIFF_INLINE void shuffle(const Work<Vec>& work, int64_t channel, int64_t top, int64_t left,
                           int64_t rows, int64_t width) {
  const Problem& problem = *work.run->problem;
  const Shape& shape = problem.shape;
  if (channel % 2 == 0) return;  // with the next one
  const int64_t plane = (work.image * shape.out_channels + channel) / 4;
  const float *even = work.lines, *odd = work.lines + work.run->unit_pixels;
  for (int64_t row = 0; row < rows; ++row, even += width, odd += width) {
    float* const __restrict to =
        problem.y + ((plane * shape.height + top + row) * 2 + channel % 4 / 2) * 2 * shape.width +
        2 * left;
    for (int64_t x = 0; x < width; ++x) {
      to[2 * x] = even[x];
      to[2 * x + 1] = odd[x];
    }
  }
}

// The same for the pixels of a channel that go to four planes.
template <class Vec>
BIDIFF_INLINE void unshuffle(const Work<Vec>& work, int64_t channel, int64_t top, int64_t left,
                             int64_t rows, int64_t width) {
  const Problem& problem = *work.run->problem;
  const Shape& shape = problem.shape;
  const int64_t plane = (work.image * shape.out_channels + channel) * 4;
  const int64_t half = shape.width / 2, size = shape.height / 2 * half;
  const float* from = work.lines + channel % 2 * work.run->unit_pixels;
  for (int64_t row = 0; row < rows; ++row, from += width) {
    const int64_t y = top + row;
    float* const __restrict even = problem.y + (plane + y % 2 * 2) * size + y / 2 * half + left / 2;
    float* const __restrict odd = even + size;
    for (int64_t x = 0; x < width / 2; ++x) {
      even[x] = from[2 * x];
      odd[x] = from[2 * x + 1];
    }
  }
}

// Output of one channel of a unit whose counters are complete.
template <class Vec, class Sink>
__attribute__((noinline)) void finish_channel(const Work<Vec>& work, int64_t unit,
                                              int64_t channel) {
  const Problem& problem = *work.run->problem;
  const Shape& shape = problem.shape;
  const int planes = work.run->sizes.planes;
  const typename Vec::Bits* counter =
      counters_of(work, unit) + (channel - work.first_channel) * planes;
  if (planes < 12) {
    doubled_counts<Vec, 12>(counter, planes, work.counts);
  } else if (planes < 16) {
    doubled_counts<Vec, 16>(counter, planes, work.counts);
  } else {
    doubled_counts_of_many_planes<Vec>(counter, planes, work.counts);
  }
  const int slots = work.run->cut.slots, unit_rows = work.run->cut.rows;
  const int64_t left = work.tile * kSlots * Vec::kLanes, width = shape.width;
  const int64_t top = unit * unit_rows, height = shape.height;
  const int rows = height - top < unit_rows ? static_cast<int>(height - top) : unit_rows;
  const int32_t* offsets = work.run->offsets + channel * kClasses;
  const typename Vec::Bits* counts = work.counts;
  const Sink sink(problem, channel, places_of(work, unit, channel, top * width + left));
  const RowOffsets<Vec> inside(offsets, 0, left, width);
  for (int row = 0; row < rows; ++row) {
    const int border = (top + row == 0 ? 1 : 0) | (top + row == height - 1 ? 2 : 0);
    if (border) {
      finish_row<Vec>(sink, RowOffsets<Vec>(offsets, border, left, width), counts + row * slots,
                      row * width, width - left);
    } else {
      finish_row<Vec>(sink, inside, counts + row * slots, row * width, width - left);
    }
  }
  if (problem.sums || problem.store == Store::kPlain) return;
  const int64_t across =
      width - left < work.run->unit_pixels ? width - left : work.run->unit_pixels;
  if (problem.store == Store::kShuffle) {
    shuffle(work, channel, top, left, rows, across);
  } else {
    unshuffle(work, channel, top, left, rows, across);
  }
}

template <class Vec>
using FinishChannel = void (*)(const Work<Vec>& work, int64_t unit, int64_t channel);

template <class Vec>
BIDIFF_INLINE FinishChannel<Vec> finish_channel_for(const BitsliceRun<Vec>& run) {
  return run.problem->sums ? finish_channel<Vec, IntegerSink<Vec>>
                           : finish_channel<Vec, FloatSink<Vec>>;
}

}  // namespace
}  // namespace bidiff
