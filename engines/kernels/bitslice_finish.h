// From the counters of a unit to its outputs: border offsets, float epilogue, stores.
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
  const int slots = work.run->cut.slots, rows = work.run->cut.rows;
  const int64_t left = work.tile * kSlots * Vec::kLanes, width = shape.width;
  const int64_t top = unit * rows, height = shape.height;
  const int64_t start = ((work.image * shape.out_channels + channel) * height + top) * width + left;
  const int32_t* offsets = work.run->offsets + channel * kClasses;
  const typename Vec::Bits* counts = work.counts;
  const Sink sink(problem, channel);
  const RowOffsets<Vec> inside(offsets, 0, left, width);
  for (int row = 0; row < rows && top + row < height; ++row) {
    const int border = (top + row == 0 ? 1 : 0) | (top + row == height - 1 ? 2 : 0);
    const int64_t at = start + row * width;
    if (border) {
      finish_row<Vec>(sink, RowOffsets<Vec>(offsets, border, left, width), counts + row * slots, at,
                      width - left);
    } else {
      finish_row<Vec>(sink, inside, counts + row * slots, at, width - left);
    }
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
