// A task: packs, counts and finishes the units of a band, one unit after the other.
//
// Counting is arithmetic in the L1 cache; packing and finishing move memory. So while a unit is
// counted, one channel after another of the unit before it is finished, and the input of a later
// one is fetched.
#pragma once

#include "bitslice_finish.h"
#include "bitslice_pack.h"

namespace bidiff {
namespace {

constexpr int64_t kStreamedBytes = 16 << 20;  // outputs too large for the last-level cache anyway

// Work done during counting, see above. `unit` is the one to finish, from `channel` on.
template <class Vec>
struct Aside {
  FinishChannel<Vec> finish;
  int64_t unit, channel, last_channel;  // channel == last_channel: nothing left
  int64_t steps, every;                 // steps until the next channel, and between two
  Fetch input, residual, skip, output;
  int64_t batch;  // output channels counted between two such steps
};

template <class Vec>
BIDIFF_INLINE void step_aside(const Work<Vec>& work, Aside<Vec>* aside, int64_t steps) {
  for (aside->steps -= steps; aside->steps <= 0; aside->steps += aside->every) {
    if (aside->channel < aside->last_channel) aside->finish(work, aside->unit, aside->channel++);
  }
  fetch_steps(&aside->input, steps);
  fetch_steps(&aside->residual, steps);
  fetch_steps(&aside->skip, steps);
  fetch_steps(&aside->output, steps);
}

// Each such step has a small cost, but a burst of more lines than a core can have in flight stalls
// it.
template <class Vec>
BIDIFF_INLINE int64_t batch_of(const Aside<Vec>& aside) {
  constexpr int64_t kLinesAtOnce = 8, kMaxSteps = 8;
  const int64_t lines =
      aside.input.per_step + aside.residual.per_step + aside.skip.per_step + aside.output.per_step;
  const int64_t steps = lines ? kLinesAtOnce / lines : kMaxSteps;
  return steps < 1 ? 1 : steps > kMaxSteps ? kMaxSteps : steps;
}

template <class Vec, bool kFirst, int kPlanes>
__attribute__((noinline)) void count_chunk(const Work<Vec>& work, int64_t unit, int64_t chunk,
                                           Aside<Vec>* aside) {
  const int64_t steps = aside->batch;
  const BitsliceRun<Vec>& run = *work.run;
  const int64_t channels = work.last_channel - work.first_channel;
  const typename Vec::Bits* table = work.table;
  const uint8_t* lookups =
      run.lookups +
      (chunk * run.problem->shape.out_channels + work.first_channel) * (kNonets * kNonetLookups);
  typename Vec::Bits* counter = counters_of(work, unit);
  for (int64_t done = 0; done < channels; done += steps) {
    const int64_t batch = channels - done < steps ? channels - done : steps;
    for (int64_t i = 0; i < batch; ++i) {
      add_chunk<Vec, kFirst, kPlanes>(table, lookups, counter);
      lookups += kNonets * kNonetLookups;
      counter += kPlanes;
    }
    step_aside(work, aside, batch);
  }
}

template <class Vec, int kPlanes>
BIDIFF_INLINE void count_chunk(const Work<Vec>& work, int64_t unit, int64_t chunk,
                               Aside<Vec>* aside) {
  if (chunk == 0) {
    count_chunk<Vec, true, kPlanes>(work, unit, chunk, aside);
  } else {
    count_chunk<Vec, false, kPlanes>(work, unit, chunk, aside);
  }
}

template <class Vec>
BIDIFF_INLINE void count_unit(const Work<Vec>& work, int64_t unit, Aside<Vec>* aside) {
  for (int64_t chunk = 0; chunk < work.run->sizes.chunks; ++chunk) {
    for (int nonet = 0; nonet < kNonets; ++nonet) {
      typename Vec::Bits inputs[9];
      gather_nonet(work, unit, chunk * kNonets + nonet, inputs);
      build_nonet<Vec>(work.table + nonet * kNonetLines, inputs);
    }
    switch (work.run->sizes.planes) {
      case 8: count_chunk<Vec, 8>(work, unit, chunk, aside); break;
      case 10: count_chunk<Vec, 10>(work, unit, chunk, aside); break;
      case 11: count_chunk<Vec, 11>(work, unit, chunk, aside); break;
      case 12: count_chunk<Vec, 12>(work, unit, chunk, aside); break;
      case 13: count_chunk<Vec, 13>(work, unit, chunk, aside); break;
      case 15: count_chunk<Vec, 15>(work, unit, chunk, aside); break;
      default: count_chunk<Vec, kMaxPlanes>(work, unit, chunk, aside);
    }
  }
  while (aside->channel < aside->last_channel) aside->finish(work, aside->unit, aside->channel++);
}

// Bits t, t + rows.. of the first (last) slot of every row of a unit.
BIDIFF_INLINE uint32_t every_row(const Cut& cut, int slot) {
  uint32_t bits = 0;
  for (int row = 0; row < cut.rows; ++row) bits |= uint32_t{1} << (row * cut.slots + slot);
  return bits;
}

template <class Vec>
void bitslice_task(void* user, size_t index) {
  BitsliceRun<Vec>& run = *static_cast<BitsliceRun<Vec>*>(user);
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
  work.row = Vec::shift(cut.slots);
  work.other_rows = Vec::shift((cut.rows - 1) * cut.slots);

  const size_t vector = sizeof(typename Vec::Bits);
  const size_t mids = static_cast<size_t>(3 * shape.in_channels);
  const size_t counters = static_cast<size_t>(2 * cut.channels_per_task * run.sizes.planes);
  const size_t lines = mids + kNonets * kNonetLines + counters + kSlots;
  const size_t pixels = static_cast<size_t>(run.unit_pixels);
  const size_t floats = (2 + (run.problem->affine ? mids : 0)) * pixels;
  char* scratch =
      static_cast<char*>(thread_scratch(0, lines * vector + floats * sizeof(float) + mids));
  if (!scratch) return mark_failed(&run.failure);
  work.table = reinterpret_cast<typename Vec::Bits*>(scratch);
  work.counts = work.table + kNonets * kNonetLines;
  work.mid = work.counts + kSlots;
  work.counters = work.mid + mids;
  work.lines = reinterpret_cast<float*>(work.counters + counters);
  work.h = work.lines + 2 * pixels;
  work.edges = reinterpret_cast<uint8_t*>(work.lines + floats);

  const int64_t first = band * cut.units_per_task;
  const int64_t past =
      first + cut.units_per_task < cut.units ? first + cut.units_per_task : cut.units;
  const bool tall = shape.kernel == 3;
  const int64_t steps = run.sizes.chunks * (work.last_channel - work.first_channel);
  if (tall) pack_unit(work, first - 1, cut.rows - 1, cut.rows);
  pack_unit(work, first, 0, cut.rows);
  for (int64_t unit = first; unit < past; ++unit) {
    const int64_t ahead = unit + 1;
    if (tall || ahead < past) pack_unit(work, ahead, 0, ahead < past ? cut.rows : 1);
    Aside<Vec> aside{};
    aside.finish = finish_channel_for(run);
    aside.unit = unit - 1;
    aside.channel = unit > first ? work.first_channel : work.last_channel;
    aside.last_channel = work.last_channel;
    aside.steps = aside.every = run.sizes.chunks;
    const Problem& problem = *run.problem;
    const int64_t all = shape.out_channels, from = work.first_channel, to = work.last_channel;
    const auto fetch = [&](const float* map, const float* const* planes, int64_t of_unit) {
      return fetch_unit(work, map, planes, all, from, to, of_unit, steps);
    };
    if (unit + 2 < past) {
      aside.input = fetch_unit(work, problem.x, problem.planes, shape.in_channels, 0,
                               shape.in_channels, unit + 2, steps);
    }
    if (unit > first) {
      if (!problem.residual_is_input) {
        aside.residual =
            fetch(problem.residual_is_scalar ? nullptr : problem.residual, nullptr, unit - 1);
      } else if (!problem.affine) {
        aside.residual = fetch(problem.x, problem.planes, unit - 1);
      }
      aside.skip = fetch(problem.skip, nullptr, unit - 1);
      if (problem.store == Store::kPlain && problem.skip != problem.y && !run.streams) {
        aside.output = fetch(problem.y, nullptr, unit - 1);
      }
    }
    aside.batch = batch_of(aside);
    count_unit(work, unit, &aside);
  }
  for (int64_t channel = work.first_channel; channel < work.last_channel; ++channel) {
    finish_channel_for(run)(work, past - 1, channel);
  }
  if (run.streams) Vec::stream_fence();
}

template <class Vec>
bool bitslice_run(const Problem& problem, const void* packed, const Parallel& parallel) {
  const Shape& shape = problem.shape;
  BitsliceRun<Vec> run;
  run.problem = &problem;
  run.offsets = static_cast<const int32_t*>(packed);
  run.lookups = reinterpret_cast<const uint8_t*>(run.offsets + shape.out_channels * kClasses);
  run.sizes = sizes_of(shape);
  run.cut = cut_image<Vec>(shape);
  run.unit_pixels = run.cut.tiles > 1 ? int64_t{kSlots} * Vec::kLanes : run.cut.rows * shape.width;
  const int64_t outputs = shape.batch * shape.out_channels * shape.height * shape.width;
  run.streams = problem.y && problem.store == Store::kPlain && problem.skip != problem.y &&
                outputs * 4 >= kStreamedBytes && shape.width % Vec::kLanes == 0 &&
                reinterpret_cast<uintptr_t>(problem.y) % sizeof(typename Vec::Bits) == 0;
  const int64_t work = outputs * shape.in_channels * shape.kernel * shape.kernel;
  const size_t tasks =
      static_cast<size_t>(shape.batch * run.cut.tiles * run.cut.bands * run.cut.blocks);
  run_tasks(parallel, work, tasks, bitslice_task<Vec>, &run);
  return !run.failure.failed;
}

constexpr unsigned kBitsliceFused = kFusedPlanes | kFusedNorm | kFusedSkip | kFusedStore;

}  // namespace
}  // namespace bidiff
