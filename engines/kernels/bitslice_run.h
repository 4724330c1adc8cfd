// How an image is cut into units, packed, and sent through bitslice.h.
#pragma once

#include "bitslice.h"
#include "float_epilogue.h"

namespace bidiff {
namespace {

// Outputs beyond this are written past the caches: they would only evict what is still needed.
constexpr int64_t kStreamBytes = int64_t{8} << 20;
constexpr int64_t kUnitsPerTask = 8;     // of large images; neighbouring tasks pack one row twice
constexpr int64_t kChannelsPerTask = 128;  // of small images with many output channels

struct Cut {
  int slots;                     // slots in a row of a unit
  int rows;                      // rows in a unit
  int64_t tiles;                 // units side by side
  int64_t units;                 // units above each other
  int64_t units_per_task, bands;
  int64_t channels_per_task, blocks;
};

template <class Vec>
BIDIFF_INLINE Cut cut_image(const Shape& shape) {
  Cut cut;
  const int64_t slots = (shape.width + Vec::kLanes - 1) / Vec::kLanes;
  cut.slots = slots < kSlots ? static_cast<int>(slots) : kSlots;
  cut.tiles = (slots + kSlots - 1) / kSlots;
  cut.rows = kSlots / cut.slots;
  cut.units = (shape.height + cut.rows - 1) / cut.rows;
  cut.units_per_task = cut.units >= 4 * kUnitsPerTask ? kUnitsPerTask : (cut.units + 3) / 4;
  cut.bands = (cut.units + cut.units_per_task - 1) / cut.units_per_task;
  const bool few = shape.batch * cut.tiles * cut.bands < 4;
  cut.channels_per_task =
      few && shape.out_channels > kChannelsPerTask ? kChannelsPerTask : shape.out_channels;
  cut.blocks = (shape.out_channels + cut.channels_per_task - 1) / cut.channels_per_task;
  return cut;
}

template <class Vec>
struct Run {
  const Problem* problem;
  const int32_t* offsets;
  const uint8_t* lookups;
  Sizes sizes;
  Cut cut;
  bool streams;
  TaskFailure failure;
};

template <class Vec>
struct Work {
  using Bits = typename Vec::Bits;
  const Run<Vec>* run;
  int64_t image, tile, first_channel, last_channel;
  // Scratch of one task. mid: planes of three units, [unit % 3][Cin]; edges: of the same, the bits
  // left (1) and right (2) of a tile that ends inside a row.
  Bits *mid, *table, *counters, *counts;
  uint8_t* edges;
  Bits row_starts, row_ends;
};

// Packs rows [first, last) of a unit for every channel; rows outside the image stay 0.
template <class Vec>
BIDIFF_INLINE void pack_unit(const Work<Vec>& work, int64_t unit, int first, int last) {
  const Run<Vec>& run = *work.run;
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const int64_t plane = shape.height * shape.width;
  const int64_t left = work.tile * kSlots * Vec::kLanes;
  typename Vec::Bits* mid = work.mid + (unit + 3) % 3 * shape.in_channels;
  uint8_t* edges = work.edges + (unit + 3) % 3 * shape.in_channels;
  for (int64_t channel = 0; channel < shape.in_channels; ++channel) {
    const float threshold = problem.threshold ? problem.threshold[channel] : 0.0f;
    const typename Vec::Floats thresholds = Vec::broadcast_float(threshold);
    typename Vec::Bits bits = Vec::zero();
    edges[channel] = 0;
    for (int row = first; row < last; ++row) {
      const int64_t y = unit * run.cut.rows + row;
      if (y < 0 || y >= shape.height) continue;
      const float* x = problem.x + (work.image * shape.in_channels + channel) * plane +
                       y * shape.width + left;
      const int64_t width = shape.width - left;
      for (int slot = 0; slot < run.cut.slots; ++slot) {
        const int64_t rest = width - slot * Vec::kLanes;
        if (rest <= 0) break;
        const float* from = x + slot * Vec::kLanes;
        // The next channel's row is a plane away, where the hardware prefetcher starts afresh.
        __builtin_prefetch(from + plane);
        bits = Vec::pack_slot(bits, from, rest < Vec::kLanes ? static_cast<int>(rest) : Vec::kLanes,
                              thresholds, row * run.cut.slots + slot);
      }
      if (run.cut.tiles > 1) {
        const int64_t right = static_cast<int64_t>(kSlots) * Vec::kLanes;
        if (left > 0 && x[-1] + threshold >= 0.0f) edges[channel] |= 1;
        if (right < width && x[right] + threshold >= 0.0f) edges[channel] |= 2;
      }
    }
    Vec::store(mid + channel, bits);
  }
}

// The planes of the pixels left of, at and right of each pixel of `at`.
template <class Vec>
BIDIFF_INLINE void neighbours(const Work<Vec>& work, typename Vec::Bits at, uint8_t edges,
                              typename Vec::Bits* planes) {
  planes[0] = Vec::from_left(at, work.row_starts);
  planes[1] = at;
  planes[2] = Vec::from_right(at, work.row_ends);
  if (work.run->cut.tiles > 1) {
    if (edges & 1) planes[0] = Vec::either(planes[0], Vec::lane_bit(0, 0));
    if (edges & 2) planes[2] = Vec::either(planes[2], Vec::lane_bit(Vec::kLanes - 1, kSlots - 1));
  }
}

// The nine planes of a nonet: for k = 3 the taps of a channel, for k = 1 nine channels.
template <class Vec>
BIDIFF_INLINE void gather_nonet(const Work<Vec>& work, int64_t unit, int64_t nonet,
                                typename Vec::Bits* planes) {
  using Bits = typename Vec::Bits;
  const Run<Vec>& run = *work.run;
  const Shape& shape = run.problem->shape;
  const int64_t channels = shape.in_channels;
  const Bits* at = work.mid + unit % 3 * channels;
  if (shape.kernel == 1) {
    for (int i = 0; i < 9; ++i) {
      const int64_t channel = nonet * 9 + i;
      planes[i] = channel < channels ? Vec::load(at + channel) : Vec::zero();
    }
    return;
  }
  if (nonet >= channels) {
    for (int i = 0; i < 9; ++i) planes[i] = Vec::zero();
    return;
  }
  const int64_t above = (unit + 2) % 3 * channels + nonet, below = (unit + 1) % 3 * channels + nonet;
  const int row = run.cut.slots, others = (run.cut.rows - 1) * run.cut.slots;
  const Bits middle = Vec::load(at + nonet);
  const Bits upper = Vec::either(Vec::shift_left_by(middle, row),
                                 Vec::shift_right_by(Vec::load(work.mid + above), others));
  const Bits lower = Vec::either(Vec::shift_right_by(middle, row),
                                 Vec::shift_left_by(Vec::load(work.mid + below), others));
  neighbours(work, upper, work.edges[above], planes);
  neighbours(work, middle, work.edges[unit % 3 * channels + nonet], planes + 3);
  neighbours(work, lower, work.edges[below], planes + 6);
}

template <class Vec>
BIDIFF_INLINE void count_unit(const Work<Vec>& work, int64_t unit) {
  const Run<Vec>& run = *work.run;
  const int64_t channels = run.problem->shape.out_channels;
  const int planes = run.sizes.planes;
  for (int64_t chunk = 0; chunk < run.sizes.chunks; ++chunk) {
    for (int nonet = 0; nonet < kNonets; ++nonet) {
      typename Vec::Bits inputs[9];
      gather_nonet(work, unit, chunk * kNonets + nonet, inputs);
      build_nonet<Vec>(work.table + nonet * kNonetLines, inputs);
    }
    const uint8_t* lookups =
        run.lookups + (chunk * channels + work.first_channel) * kNonets * kNonetLookups;
    typename Vec::Bits* counter = work.counters;
    for (int64_t channel = work.first_channel; channel < work.last_channel; ++channel) {
      if (chunk == 0) {
        add_chunk<Vec, true>(work.table, lookups, counter, planes);
      } else {
        add_chunk<Vec, false>(work.table, lookups, counter, planes);
      }
      lookups += kNonets * kNonetLookups;
      counter += planes;
    }
  }
}

template <class Vec>
BIDIFF_INLINE void finish_row(const Work<Vec>& work, const ChannelEpilogue<Vec>& epilogue,
                              const int32_t* offsets, const typename Vec::Bits* counts,
                              int64_t channel, int64_t y) {
  using Bits = typename Vec::Bits;
  const Run<Vec>& run = *work.run;
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const int64_t left = work.tile * kSlots * Vec::kLanes;
  const int border = (y == 0 ? 1 : 0) | (y == shape.height - 1 ? 2 : 0);
  const int64_t start =
      ((work.image * shape.out_channels + channel) * shape.height + y) * shape.width + left;
  const Bits inner = Vec::broadcast(static_cast<uint32_t>(offsets[border]));
  for (int slot = 0; slot < run.cut.slots; ++slot) {
    const int64_t x = left + slot * Vec::kLanes, rest = shape.width - x;
    if (rest <= 0) break;
    const int count = rest < Vec::kLanes ? static_cast<int>(rest) : Vec::kLanes;
    Bits offset = inner;
    if (rest <= Vec::kLanes) offset = Vec::put(offset, count - 1, offsets[border | 8]);
    if (x == 0) offset = Vec::put(offset, 0, offsets[border | 4 | (rest == 1 ? 8 : 0)]);
    const Bits sum = Vec::subtract(offset, Vec::load(counts + slot));
    const int64_t at = start + slot * Vec::kLanes;
    if (problem.sums) {
      Vec::store_integers(problem.sums + at, sum, count);
      continue;
    }
    const typename Vec::Floats result = epilogue.apply(sum, at, count);
    if (run.streams) {
      Vec::stream_floats(problem.y + at, result);
    } else {
      Vec::store_floats(problem.y + at, result, count);
    }
  }
}

template <class Vec>
BIDIFF_INLINE void finish_unit(const Work<Vec>& work, int64_t unit) {
  const Run<Vec>& run = *work.run;
  const Problem& problem = *run.problem;
  const int planes = run.sizes.planes;
  for (int64_t channel = work.first_channel; channel < work.last_channel; ++channel) {
    const typename Vec::Bits* counter = work.counters + (channel - work.first_channel) * planes;
    if (planes < 12) {
      doubled_counts<Vec, 12>(counter, planes, work.counts);
    } else if (planes < 16) {
      doubled_counts<Vec, 16>(counter, planes, work.counts);
    } else {
      doubled_counts_of_many_planes<Vec>(counter, planes, work.counts);
    }
    const ChannelEpilogue<Vec> epilogue(problem, channel);
    for (int row = 0; row < run.cut.rows; ++row) {
      const int64_t y = unit * run.cut.rows + row;
      if (y >= problem.shape.height) break;
      finish_row(work, epilogue, run.offsets + channel * kClasses,
                 work.counts + row * run.cut.slots, channel, y);
    }
  }
}

// Bits t, t + rows.. of the first (last) slot of every row of a unit.
BIDIFF_INLINE uint32_t every_row(const Cut& cut, int slot) {
  uint32_t bits = 0;
  for (int row = 0; row < cut.rows; ++row) bits |= uint32_t{1} << (row * cut.slots + slot);
  return bits;
}

template <class Vec>
void bitslice_task(void* user, size_t index) {
  Run<Vec>& run = *static_cast<Run<Vec>*>(user);
  const Shape& shape = run.problem->shape;
  const Cut& cut = run.cut;
  int64_t rest = static_cast<int64_t>(index);
  const int64_t block = rest % cut.blocks;
  rest /= cut.blocks;
  const int64_t band = rest % cut.bands;
  rest /= cut.bands;

  Work<Vec> work;
  work.run = &run;
  work.tile = rest % cut.tiles;
  work.image = rest / cut.tiles;
  work.first_channel = block * cut.channels_per_task;
  const int64_t end = work.first_channel + cut.channels_per_task;
  work.last_channel = end < shape.out_channels ? end : shape.out_channels;
  work.row_starts = Vec::broadcast(~every_row(cut, 0));
  work.row_ends = Vec::broadcast(~every_row(cut, cut.slots - 1));

  const size_t vector = sizeof(typename Vec::Bits);
  const size_t mids = static_cast<size_t>(3 * shape.in_channels);
  const size_t counters = static_cast<size_t>(cut.channels_per_task * run.sizes.planes);
  const size_t lines = mids + kNonets * kNonetLines + counters + kSlots;
  char* scratch = static_cast<char*>(thread_scratch(0, lines * vector + mids));
  if (!scratch) return mark_failed(&run.failure);
  work.table = reinterpret_cast<typename Vec::Bits*>(scratch);
  work.counts = work.table + kNonets * kNonetLines;
  work.mid = work.counts + kSlots;
  work.counters = work.mid + mids;
  work.edges = reinterpret_cast<uint8_t*>(work.counters + counters);

  const int64_t first = band * cut.units_per_task;
  const int64_t past = first + cut.units_per_task < cut.units ? first + cut.units_per_task
                                                              : cut.units;
  const bool tall = shape.kernel == 3;
  if (tall) pack_unit(work, first - 1, cut.rows - 1, cut.rows);
  pack_unit(work, first, 0, cut.rows);
  for (int64_t unit = first; unit < past; ++unit) {
    if (tall) pack_unit(work, unit + 1, 0, unit + 1 < past ? cut.rows : 1);
    count_unit(work, unit);
    finish_unit(work, unit);
    if (!tall && unit + 1 < past) pack_unit(work, unit + 1, 0, cut.rows);
  }
  if (run.streams) Vec::fence();
}

template <class Vec>
bool bitslice_run(const Problem& problem, const void* packed, const Parallel& parallel) {
  const Shape& shape = problem.shape;
  Run<Vec> run;
  run.problem = &problem;
  run.offsets = static_cast<const int32_t*>(packed);
  run.lookups = reinterpret_cast<const uint8_t*>(run.offsets + shape.out_channels * kClasses);
  run.sizes = sizes_of(shape);
  run.cut = cut_image<Vec>(shape);
  const int64_t outputs = shape.batch * shape.out_channels * shape.height * shape.width;
  run.streams = problem.y && outputs * 4 > kStreamBytes && shape.width % Vec::kLanes == 0 &&
                reinterpret_cast<uintptr_t>(problem.y) % sizeof(typename Vec::Bits) == 0;
  const int64_t work = outputs * shape.in_channels * shape.kernel * shape.kernel;
  const size_t tasks = static_cast<size_t>(shape.batch * run.cut.tiles * run.cut.bands *
                                           run.cut.blocks);
  run_tasks(parallel, work, tasks, bitslice_task<Vec>, &run);
  return !run.failure.failed;
}

}  // namespace
}  // namespace bidiff
