// Binary convolution with lanes = pixels of 32 channels each, for CPUs that count the ones of every
// 32-bit lane, or of every byte, in one instruction.
//
// Activations are packed into planes [ceil(Cin/32)][rows of a band + 2][padded width] of one word a
// pixel, so neighbouring pixels of any tap are one (unaligned) load, and sums come out as
// neighbouring outputs, 16 with AVX-512 or 4 with NEON. A tile of 4 vectors by 4 output channels
// keeps 16 counters in registers; for each tap and word it does 16 times xor, count, add.
//
// Counting is arithmetic in the L1 cache, and everything else moves memory. So while a band is
// counted, the next one is fetched and packed, and what the next tile adds and writes is
// prefetched. A task has several consecutive bands and packs no row twice.
//
// `Vec` is the instruction set's policy, `Count` the population count: add(counts, a) adds that of
// `a`. Counts of a word's parts, which overflow after kMaxAdditions (0: never), are added to its
// total by accumulate(total, counts). Unnamed namespace as in bitslice.h.
#pragma once

#include "popcount_output.h"

namespace bidiff {
namespace {

constexpr int64_t kOddWords = 16;  // a cache line
constexpr int64_t kBandRows = 4;   // whose packed words stay in the L1 cache
constexpr int64_t kNarrowBandRows = 8, kFewSlots = 2;
constexpr int64_t kTasksPerProcessor = 2;
constexpr int64_t kBandOfH = 512 << 10;       // bytes of h that stay in the L2 cache
constexpr int64_t kStreamedBytes = 16 << 20;  // outputs too large for the last-level cache anyway

// Rounded up to cache lines plus one, to avoid 4 KB aliasing.
BIDIFF_INLINE int64_t odd_stride(int64_t words) {
  return ((words + kOddWords - 1) / kOddWords + 1) * kOddWords;
}

BIDIFF_INLINE int64_t tiles_of(const PopcountRun& run, int64_t rows) {
  return (rows * run.slots + kVectors - 1) / kVectors;
}

// Index of pixel (y, x) of an output channel, from the channel's first element.
BIDIFF_INLINE int64_t stored_at(const Problem& problem, int64_t y, int64_t x) {
  const int64_t height = problem.shape.height, width = problem.shape.width;
  if (problem.store == Store::kShuffle) return 2 * y * 2 * width + 2 * x;
  if (problem.store == Store::kUnshuffle) {
    return (y % 2 * 2 * (height / 2) + y / 2) * (width / 2) + x / 2;
  }
  return y * width + x;
}

template <class Vec>
BIDIFF_INLINE void lay_tiles(const PopcountRun& run, int64_t top, int64_t rows, Tile<Vec>* tiles) {
  const Shape& shape = run.problem->shape;
  constexpr uint32_t kAll = (1u << Vec::kLanes) - 1;
  int64_t row = 0, slot = 0, y = top, x = 0;
  for (int64_t i = 0; i < tiles_of(run, rows); ++i) {
    Tile<Vec>& tile = tiles[i];
    tile.full = true;
    for (int v = 0; v < kVectors; ++v) {
      const bool exists = row < rows;  // else the last row again
      if (exists) {
        y = top + row;
        x = slot * Vec::kLanes;
      }
      const int64_t rest = shape.width - x;
      tile.pixel[v] = y * shape.width + x;
      tile.stored[v] = stored_at(*run.problem, y, x);
      tile.word[v] = (y - top) * run.row_words + x + Vec::kLanes;
      tile.lanes[v] = !exists ? 0 : rest < Vec::kLanes ? (1u << rest) - 1 : kAll;
      for (int64_t lane = 0; lane < Vec::kLanes; ++lane) {
        tile.classes[v][lane] = (y == 0 ? 1 : 0) | (y == shape.height - 1 ? 2 : 0) |
                                (x + lane == 0 ? 4 : 0) | (lane == rest - 1 ? 8 : 0);
      }
      if (tile.lanes[v] != kAll) tile.full = false;
      if (exists && ++slot == run.slots) {
        slot = 0;
        ++row;
      }
    }
    tile.paired = tile.full && run.slots % 2 == 0;
  }
}

BIDIFF_INLINE Group group_at(const PopcountTask& task, int64_t first, int64_t top) {
  const PopcountRun& run = *task.run;
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const int64_t plane = shape.height * shape.width, left = shape.out_channels - first;
  Group group{};
  group.problem = &problem;
  group.first = first;
  group.channels = left < kChannels ? static_cast<int>(left) : kChannels;
  group.offsets = run.offsets + first * kClasses;
  group.words = run.words + first / kChannels * group_words(shape);
  group.streams = run.streams;
  for (int c = 0; c < group.channels; ++c) {
    const int64_t channel = first + c, at = (task.image * shape.out_channels + channel) * plane;
    if (problem.sums) {
      group.sums[c] = problem.sums + at;
      continue;
    }
    group.y[c] = problem.y + at;
    if (problem.skip) group.skip[c] = problem.skip + at;
    if (problem.residual_is_input) {
      group.residual[c] = problem.affine
                              ? task.h + channel * run.h_stride - (top - run.half) * shape.width
                              : input_plane(problem, task.image, channel);
    } else if (problem.residual && !problem.residual_is_scalar) {
      group.residual[c] = problem.residual + at;
    }
  }
  return group;
}

// Computes all output channels of a band while preparing `ahead`.
template <class Vec, class Count, int kKernel, class Output>
__attribute__((noinline)) void convolve_band(const PopcountTask& task, int64_t top,
                                             const uint32_t* band, const Tile<Vec>* tiles,
                                             int64_t tile_count, Preparation* ahead) {
  const PopcountRun& run = *task.run;
  const int64_t channels = run.problem->shape.out_channels;
  Group next = group_at(task, 0, top);
  for (int64_t first = 0; first < channels; first += kChannels) {
    const Group group = next;
    if (first + kChannels < channels) next = group_at(task, first + kChannels, top);
    for (int64_t i = 0; i < tile_count; ++i) {
      const bool ends = i + 1 == tile_count;
      const Group& coming = ends ? next : group;
      fetch_added<Vec>(coming, tiles[ends ? 0 : i + 1]);
      Output::template fetch<Vec>(coming, tiles[ends ? 0 : i + 1]);
      if (ahead) advance<Vec>(ahead, ahead->lines_at_once);
      typename Vec::Bits counts[kChannels][kVectors];
      count_tile<Vec, Count, kKernel>(run, band, tiles[i], group.words, counts);
      if (tiles[i].full) {
        Output::template store<Vec, true>(group, tiles[i], counts);
      } else {
        Output::template store<Vec, false>(group, tiles[i], counts);
      }
    }
  }
}

template <class Vec>
using ConvolveBand = void (*)(const PopcountTask&, int64_t, const uint32_t*, const Tile<Vec>*,
                              int64_t, Preparation*);

template <class Vec, class Count, int kKernel>
BIDIFF_INLINE ConvolveBand<Vec> convolve_band_for(const Problem& problem) {
  if (problem.sums) return convolve_band<Vec, Count, kKernel, SumsOutput>;
  if (problem.store == Store::kShuffle) return convolve_band<Vec, Count, kKernel, ShuffleOutput>;
  if (problem.store == Store::kUnshuffle) {
    return convolve_band<Vec, Count, kKernel, UnshuffleOutput>;
  }
  return convolve_band<Vec, Count, kKernel, PlainOutput>;
}

template <class Vec, class Count>
void popcount_task(void* user, size_t index) {
  PopcountRun& run = *static_cast<PopcountRun*>(user);
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  PopcountTask task;
  task.run = &run;
  task.image = static_cast<int64_t>(index) / run.tasks;
  const int64_t first = static_cast<int64_t>(index) % run.tasks * run.task_rows;
  const int64_t past = first + run.task_rows < shape.height ? first + run.task_rows : shape.height;

  const int64_t band_words = words_per_tap(shape) * run.plane_words;
  const size_t word_bytes = static_cast<size_t>(2 * band_words) * sizeof(uint32_t);
  const size_t h_bytes =
      problem.affine ? static_cast<size_t>(shape.in_channels * run.h_stride) * sizeof(float) : 0;
  const size_t tile_bytes = static_cast<size_t>(tiles_of(run, run.rows)) * sizeof(Tile<Vec>);
  char* scratch = static_cast<char*>(thread_scratch(1, word_bytes + h_bytes + tile_bytes));
  if (!scratch) return mark_failed(&run.failure);
  memset(scratch, 0, word_bytes);
  task.words[0] = reinterpret_cast<uint32_t*>(scratch);
  task.words[1] = task.words[0] + band_words;
  task.h = reinterpret_cast<float*>(scratch + word_bytes);
  Tile<Vec>* tiles = reinterpret_cast<Tile<Vec>*>(scratch + word_bytes + h_bytes);

  const ConvolveBand<Vec> convolve = shape.kernel == 3 ? convolve_band_for<Vec, Count, 3>(problem)
                                                       : convolve_band_for<Vec, Count, 1>(problem);
  Preparation ready = prepare_band(task, first, nullptr, task.words[0]);
  if (problem.affine) {
    normalise_and_pack<Vec>(&ready);
  } else {
    finish_preparation<Vec>(&ready);
  }
  for (int64_t top = first; top < past; top += run.rows) {
    const int64_t rows = run.rows < past - top ? run.rows : past - top;
    const int64_t below = top + run.rows, tile_count = tiles_of(run, rows);
    const uint32_t* band = ready.words;
    lay_tiles<Vec>(run, top, rows, tiles);
    Preparation ahead{};
    if (below < past) {
      uint32_t* other = task.words[band == task.words[0] ? 1 : 0];
      ahead = prepare_band(task, below, band, other);
      const int64_t lines = (ahead.last - ahead.first) * shape.width * 4 / kLine + 1;
      const int64_t steps = channel_groups(shape) * tile_count;
      ahead.lines_at_once = (lines * shape.in_channels + steps - 1) / steps;
    }
    const bool packs_aside = below < past && !problem.affine;
    convolve(task, top, band, tiles, tile_count, packs_aside ? &ahead : nullptr);
    if (problem.affine && below < past) normalise_and_pack<Vec>(&ahead);
    finish_preparation<Vec>(&ahead);
    ready = ahead;
  }
  if (run.streams) Vec::stream_fence();
}

// Adjacent tasks of an image both pack the rows at their common edge, so there are only enough to
// balance the threads.
BIDIFF_INLINE void cut_image(PopcountRun* run) {
  const Problem& problem = *run->problem;
  const Shape& shape = problem.shape;
  run->rows = run->slots <= kFewSlots ? kNarrowBandRows : kBandRows;
  if (problem.affine) {
    const int64_t row_bytes = shape.in_channels * shape.width * 4;
    while (run->rows > 1 && (run->rows + 2 * run->half) * row_bytes > kBandOfH) run->rows /= 2;
  }
  const int64_t wanted = (kTasksPerProcessor * processors() + shape.batch - 1) / shape.batch;
  const int64_t bands = (shape.height + run->rows - 1) / run->rows;
  run->task_rows = (bands + wanted - 1) / wanted * run->rows;
  run->tasks = (shape.height + run->task_rows - 1) / run->task_rows;
}

template <class Vec, class Count>
bool popcount_run(const Problem& problem, const void* packed, const Parallel& parallel) {
  const Shape& shape = problem.shape;
  PopcountRun run;
  run.problem = &problem;
  run.offsets = static_cast<const int32_t*>(packed);
  run.words = reinterpret_cast<const uint32_t*>(run.offsets + shape.out_channels * kClasses);
  run.half = shape.kernel / 2;
  run.slots = (shape.width + Vec::kLanes - 1) / Vec::kLanes;
  cut_image(&run);
  const int64_t rows = run.rows + 2 * run.half;
  run.row_words = (run.slots + 1) * Vec::kLanes;
  run.plane_words = odd_stride(rows * run.row_words + Vec::kLanes);
  run.h_stride = odd_stride(rows * shape.width);
  // Needs whole aligned vectors that nothing reads while the output is being written.
  const int64_t outputs = shape.batch * shape.out_channels * shape.height * shape.width;
  const int64_t line = problem.store == Store::kShuffle ? 2 * shape.width : shape.width;
  run.streams = problem.y && problem.skip != problem.y && problem.store != Store::kUnshuffle &&
                outputs * 4 >= kStreamedBytes && line * 4 % kLine == 0 &&
                reinterpret_cast<uintptr_t>(problem.y) % kLine == 0;
  const int64_t work = outputs * shape.in_channels * shape.kernel * shape.kernel;
  run_tasks(parallel, work, static_cast<size_t>(shape.batch * run.tasks), popcount_task<Vec, Count>,
            &run);
  return !run.failure.failed;
}

}  // namespace
}  // namespace bidiff
