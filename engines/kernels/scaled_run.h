// Scaled binary convolution (Problem::branches in binary_conv.h) with lanes = pixels of 32 channels
// each, as in popcount_words.h.
//
// The scale of a pixel differs from tap to tap, so each tap is counted alone: words of one tap are
// xored and counted in integers, then one float multiplication and addition. A tile is 2 vectors by
// 4 output channels: as many counters and float sums as fit the registers of AVX-512.
//
// Maps are packed on a grid whose lines have one cell of padding, shared by the right of a line and
// the left of the next; a tile runs over it. The padding's scale is 0, so it adds nothing whatever
// its bits are, and maps of 8 pixels a row still fill vectors. For k = 1 lines are not rows but
// kLine pixels each. Inputs that are exactly 0 are rare but exact: only when there is one are
// mismatches masked by a second set of planes.
//
// Unnamed namespace as in bitslice.h.
#pragma once

#include "scaled_pack.h"

namespace bidiff {
namespace {

template <class Vec, class Count, bool kZeros>
BIDIFF_INLINE void count_tap(const ScaledRun& run, int64_t at, const uint32_t* weights,
                             typename Vec::Bits counts[kTileChannels][kTileVectors]) {
  using Bits = typename Vec::Bits;
  const uint32_t* bits = run.bits + at;
  const uint32_t* filled = run.filled + at;
  for (int c = 0; c < kTileChannels; ++c) {
    for (int v = 0; v < kTileVectors; ++v) counts[c][v] = Vec::zero();
  }
  int64_t left = run.words;
  while (left > 0) {
    constexpr int64_t kMost = Count::kMaxAdditions == 0 ? int64_t{1} << 32 : Count::kMaxAdditions;
    int64_t steps = left < kMost ? left : kMost;
    left -= steps;
    Bits narrow[kTileChannels][kTileVectors];
    for (int c = 0; c < kTileChannels; ++c) {
      for (int v = 0; v < kTileVectors; ++v) narrow[c][v] = Vec::zero();
    }
    for (; steps > 0; --steps) {
      Bits inputs[kTileVectors], masks[kTileVectors];
      for (int v = 0; v < kTileVectors; ++v) {
        inputs[v] = Vec::load_unaligned(bits + v * Vec::kLanes);
        if (kZeros) masks[v] = Vec::load_unaligned(filled + v * Vec::kLanes);
      }
#pragma GCC unroll 4
      for (int c = 0; c < kTileChannels; ++c) {
        const Bits weight = Vec::broadcast(weights[c]);
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v) {
          Bits differ = Vec::differ(inputs[v], weight);
          if (kZeros) differ = Vec::both(differ, masks[v]);
          narrow[c][v] = Count::add(narrow[c][v], differ);
        }
      }
      weights += kTileChannels;
      bits += run.plane;
      filled += run.plane;
    }
    for (int c = 0; c < kTileChannels; ++c) {
      for (int v = 0; v < kTileVectors; ++v) {
        counts[c][v] = Count::accumulate(counts[c][v], narrow[c][v]);
      }
    }
  }
}

// The binary and the low-rank part of a tile at cell `at`, stored in `lines`, kTileChannels lines
// `stride` apart.
template <class Vec, class Count, int kKernel, bool kZeros>
BIDIFF_INLINE void convolve_tile(const ScaledRun& run, int64_t at, int64_t first,
                                 const uint32_t* weights, float* lines, int64_t stride) {
  using Floats = typename Vec::Floats;
  const Problem& problem = *run.problem;
  const Branches& branches = *problem.branches;
  const int64_t channels = problem.shape.out_channels;
  Floats sums[kTileChannels][kTileVectors];
  for (int c = 0; c < kTileChannels; ++c) {
    for (int v = 0; v < kTileVectors; ++v) sums[c][v] = Vec::broadcast_float(0.0f);
  }
  Floats half[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) half[v] = Vec::broadcast_float(run.full);
  for (int tap = 0; tap < kKernel * kKernel; ++tap) {
    const int64_t from =
        at + (tap / kKernel - kKernel / 2) * run.pitch + tap % kKernel - kKernel / 2;
    typename Vec::Bits counts[kTileChannels][kTileVectors];
    count_tap<Vec, Count, kZeros>(run, from, weights, counts);
    weights += run.words * kTileChannels;
    for (int v = 0; v < kTileVectors; ++v) {
      const Floats scale = Vec::load_floats(run.scale + from + v * Vec::kLanes, Vec::kLanes);
      if (kZeros) half[v] = Vec::load_floats(run.half + from + v * Vec::kLanes, Vec::kLanes);
      for (int c = 0; c < kTileChannels; ++c) {
        const Floats integer = Vec::subtract_float(half[v], Vec::to_float(counts[c][v]));
        sums[c][v] = Vec::add_float(sums[c][v], Vec::multiply(scale, integer));
      }
    }
  }
  // Up to here groups beyond the last channel have weights of 0; of `up` their rows are another's.
  Floats added[kTileChannels][kTileVectors];
  const float* up[kTileChannels];
  for (int c = 0; c < kTileChannels; ++c) {
    up[c] = branches.up + (first + c < channels ? first + c : first) * branches.rank;
    for (int v = 0; v < kTileVectors; ++v) added[c][v] = Vec::broadcast_float(0.0f);
  }
  const float* low = run.low + at;
  for (int64_t i = 0; i < branches.rank; ++i, low += run.plane) {
    Floats part[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) {
      part[v] = Vec::load_floats(low + v * Vec::kLanes, Vec::kLanes);
    }
    for (int c = 0; c < kTileChannels; ++c) {
      const Floats factor = Vec::broadcast_float(up[c][i]);
      for (int v = 0; v < kTileVectors; ++v) {
        added[c][v] = Vec::add_float(added[c][v], Vec::multiply(factor, part[v]));
      }
    }
  }
  for (int c = 0; c < kTileChannels && first + c < channels; ++c) {
    const int64_t channel = first + c;
    const Floats alpha = Vec::broadcast_float(problem.alpha[channel]);
    const Floats shift_in = Vec::broadcast_float(problem.rprelu[channel]);
    const Floats slope = Vec::broadcast_float(problem.rprelu[channels + channel]);
    const Floats shift_out = Vec::broadcast_float(problem.rprelu[2 * channels + channel]);
    for (int v = 0; v < kTileVectors; ++v) {
      Floats y = Vec::multiply(alpha, Vec::add_float(sums[c][v], sums[c][v]));
      y = Vec::scale_negative(Vec::add_float(y, shift_in), slope);
      y = Vec::add_float(y, shift_out);
      Vec::store_floats(lines + c * stride + v * Vec::kLanes, Vec::add_float(y, added[c][v]),
                        Vec::kLanes);
    }
  }
}

// y = line + S x for the pixels of one line of an output channel.
template <class Vec>
BIDIFF_INLINE void finish_line(const ScaledRun& run, int64_t image, int64_t channel, int64_t first,
                               int64_t count, const float* line) {
  const Problem& problem = *run.problem;
  const Shape& shape = problem.shape;
  const Branches& branches = *problem.branches;
  const int64_t plane = shape.height * shape.width;
  const float* x = problem.x + image * shape.in_channels * plane + first;
  float* y = problem.y + (image * shape.out_channels + channel) * plane + first;
  for (int64_t i = 0; i < count; i += Vec::kLanes) {
    const int lanes = count - i < Vec::kLanes ? static_cast<int>(count - i) : Vec::kLanes;
    typename Vec::Floats added = Vec::broadcast_float(0.0f);
    for (int64_t j = branches.starts[channel]; j < branches.starts[channel + 1]; ++j) {
      const typename Vec::Floats value = Vec::broadcast_float(branches.values[j]);
      added = Vec::add_float(
          added,
          Vec::multiply(value, Vec::load_floats(x + branches.columns[j] * plane + i, lanes)));
    }
    Vec::store_floats(y + i, Vec::add_float(Vec::load_floats(line + i, lanes), added), lanes);
  }
}

template <class Vec, class Count, int kKernel, bool kZeros>
__attribute__((noinline)) void convolve_group(const ScaledRun& run, int64_t image, int64_t group,
                                              int64_t top, int64_t lines, float* scratch) {
  const Shape& shape = run.problem->shape;
  const int64_t cells = lines * run.pitch, first = group * kTileChannels;
  constexpr int64_t kTile = kTileVectors * Vec::kLanes;
  const int64_t stride = (cells + kTile - 1) / kTile * kTile;
  const uint32_t* weights = run.weights + group * kKernel * kKernel * run.words * kTileChannels;
  for (int64_t cell = 0; cell < cells; cell += kTile) {
    convolve_tile<Vec, Count, kKernel, kZeros>(run, run.cell(top) + cell, first, weights,
                                               scratch + cell, stride);
  }
  for (int c = 0; c < kTileChannels && first + c < shape.out_channels; ++c) {
    for (int64_t line = 0; line < lines; ++line) {
      finish_line<Vec>(run, image, first + c, run.first_pixel(top + line),
                       run.pixels_of(top + line), scratch + c * stride + line * run.pitch);
    }
  }
}

// Some groups of output channels, over all of an image, a band of lines at a time.
template <class Vec, class Count>
void scaled_task(void* user, size_t index) {
  ScaledRun& run = *static_cast<ScaledRun*>(user);
  const Shape& shape = run.problem->shape;
  constexpr int64_t kTile = kTileVectors * Vec::kLanes;
  const size_t floats = static_cast<size_t>(kTileChannels * (run.band * run.pitch + kTile));
  float* scratch = static_cast<float*>(thread_scratch(1, floats * sizeof(float)));
  if (!scratch) return mark_failed(&run.failure);
  const int64_t first = static_cast<int64_t>(index) * run.task_groups, all = tile_groups(shape);
  const int64_t past = first + run.task_groups < all ? first + run.task_groups : all;
  const bool tall = shape.kernel == 3;
  const auto convolve =
      run.zeros
          ? (tall ? convolve_group<Vec, Count, 3, true> : convolve_group<Vec, Count, 1, true>)
          : (tall ? convolve_group<Vec, Count, 3, false> : convolve_group<Vec, Count, 1, false>);
  for (int64_t top = 0; top < run.lines; top += run.band) {
    const int64_t lines = run.band < run.lines - top ? run.band : run.lines - top;
    for (int64_t group = first; group < past; ++group) {
      convolve(run, run.image, group, top, lines, scratch);
    }
  }
}

template <class Vec, class Count>
bool scaled_run(const Problem& problem, const void* packed, const Parallel& parallel) {
  const Shape& shape = problem.shape;
  ScaledRun run{};
  lay_grid<Vec>(problem, packed, &run);
  const size_t cells =
      static_cast<size_t>(run.plane * (2 * run.words + 2 + problem.branches->rank));
  void* memory = run_scratch(cells * sizeof(uint32_t));
  if (!memory) return false;
  const int64_t pixels = shape.height * shape.width;
  const int64_t work =
      pixels * shape.in_channels * shape.out_channels * shape.kernel * shape.kernel;
  for (run.image = 0; run.image < shape.batch && !run.failure.failed; ++run.image) {
    clear_grid(&run, memory);
    run_tasks(parallel, work, static_cast<size_t>((run.lines + kPackedLines - 1) / kPackedLines),
              pack_lines<Vec, Count>, &run);
    const int64_t groups = tile_groups(shape);
    run_tasks(parallel, work, static_cast<size_t>((groups + run.task_groups - 1) / run.task_groups),
              scaled_task<Vec, Count>, &run);
  }
  free_run_scratch(memory);
  return !run.failure.failed;
}

// As the field `scaled` of a kernel.
#define BIDIFF_SCALED_KERNEL(name, Vec, Count) \
  static constexpr Kernel kScaled = {          \
      name, scaled_packed_bytes, scaled_pack, scaled_run<Vec, Count>, 0, nullptr}

}  // namespace
}  // namespace bidiff
