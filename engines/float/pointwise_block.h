// A block of pixels of a 1x1 convolution: its input is copied to panels, and tiles of outputs are
// multiplied from them. For pointwise.cpp only; unnamed namespace, see maps.h.
#pragma once

#include "gemm.h"
#include "pointwise.h"

namespace bidiff {
namespace {

struct PointwiseRun {
  const PointwiseProblem* problem;
  const float* packed;
  int64_t pixels, depth, cells;  // depth: channels of both maps
  int64_t copied;                // units that a block is copied to: see scale_panel
  const float* row_scales;       // of integers
  int64_t stride;                // floats from panel to panel
  int64_t block_panels;
  int64_t task_panels, tasks_per_image;
  int64_t row_tiles, task_tiles, tile_groups;
  bool past_cache;
  TaskFailure failure;
};

struct PointwiseTask {
  const PointwiseRun* run;
  int64_t image, first_tile, last_tile;
};

// Columns of an image, from a panel on, that are processed together.
struct Block {
  int64_t first_panel, panels;
  int64_t first_pixel, pixels;
};

Block block_at(const PointwiseRun& run, int64_t first_panel, int64_t past) {
  Block block;
  block.first_panel = first_panel;
  block.panels = smaller(run.block_panels, past - first_panel);
  block.first_pixel = first_panel * kPanel;
  block.pixels = smaller(block.panels * kPanel, run.pixels - block.first_pixel);
  return block;
}

const float* channel_of(const PointwiseTask& task, int64_t channel) {
  const PointwiseProblem& problem = *task.run->problem;
  const int64_t own = problem.shape.channels;
  if (channel >= task.run->depth) return nullptr;
  if (channel < own) return problem.x + (task.image * own + channel) * task.run->pixels;
  return problem.second + (task.image * problem.second_channels + channel - own) * task.run->pixels;
}

// Copies a block to panels, `step` units at a time. What the next step reads is prefetched
// during the products in between.
struct Copy {
  const PointwiseTask* task;
  Block block;
  float* panels;
  int64_t unit, step;
};

template <class Math>
void step_copy(Copy* copy) {
  const PointwiseRun& run = *copy->task->run;
  const int64_t past = smaller(copy->unit + copy->step, run.copied);
  for (; copy->unit < past; ++copy->unit) {
    Unit<Math> unit;
    for (int i = 0; i < kUnit<Math>; ++i) {
      const float* channel = channel_of(*copy->task, copy->unit * kUnit<Math> + i);
      unit.rows[i] = channel ? channel + copy->block.first_pixel : nullptr;
    }
    gather_unit<Math>(unit, copy->block.pixels,
                      copy->panels + copy->unit * Math::kCellRows * kPanel, run.stride);
  }
}

template <class Math>
Fetch next_fetch(const Copy& copy) {
  const PointwiseRun& run = *copy.task->run;
  Fetch fetch;
  const int64_t channel = copy.unit * kUnit<Math>;
  const float* next = channel_of(*copy.task, channel) + copy.block.first_pixel;
  for (const char*& start : fetch.runs) start = reinterpret_cast<const char*>(next);
  // During a tile's products, of run.cells steps.
  fetch.bytes = quotient_up(copy.block.pixels * int64_t{sizeof(float)}, run.cells);
  for (int i = 1; i < Fetch::kRuns && i < copy.step * kUnit<Math>; ++i) {
    const float* from = channel_of(*copy.task, channel + i);
    if (from) fetch.runs[i] = reinterpret_cast<const char*>(from + copy.block.first_pixel);
  }
  return fetch;
}

// One tile of y: kRows channels from `channel` on, one panel of pixels.
template <class Math, int kRows, class Prefetch>
__attribute__((noinline)) void multiply_tile(const PointwiseTask& task, const float* left,
                                             const float* right, int64_t channel, int64_t pixel,
                                             Prefetch prefetch) {
  const PointwiseRun& run = *task.run;
  const PointwiseProblem& problem = *run.problem;
  Floats sums[sum_rows<Math>(kRows)][kTileVectors] = {};
  add_products<Math, kRows>(left, Math::kCellRows, kTileRows, right, run.cells, sums, prefetch);
  if (Math::kScaled) {
    const float* columns = right + run.depth * kPanel;
    for (int row = 0; row < kRows; ++row) {
      const Floats scale = splat(run.row_scales[channel + row]);
      for (int v = 0; v < kTileVectors; ++v) {
        sums[row][v] = Math::sums(sums[row][v]) * (scale * load(columns + v * kLanes));
      }
    }
  }

  const int64_t at = (task.image * problem.out_channels + channel) * run.pixels + pixel;
  const int64_t columns = smaller(run.pixels - pixel, kPanel);
  float* y = problem.y + at;
  const float* skip = problem.skip ? problem.skip + at : nullptr;
  for (int row = 0; row < kRows; ++row, y += run.pixels) {
    const Floats bias = splat(problem.bias ? problem.bias[channel + row] : 0.0f);
    for (int v = 0; v < kTileVectors; ++v) sums[row][v] += bias;
    if (columns < kPanel) {
      float rest[kPanel];
      for (int v = 0; v < kTileVectors; ++v) store(rest + v * kLanes, sums[row][v]);
      for (int64_t i = 0; i < columns; ++i) y[i] = rest[i] + (skip ? skip[i] : 0.0f);
    } else {
      for (int v = 0; v < kTileVectors; ++v) {
        const Floats value = skip ? sums[row][v] + load(skip + v * kLanes) : sums[row][v];
        if (run.past_cache) {
          stream(y + v * kLanes, value);
        } else {
          store(y + v * kLanes, value);
        }
      }
    }
    if (skip) skip += run.pixels;
  }
}

template <class Math, class Prefetch>
void multiply_rows(const PointwiseTask& task, int64_t rows, const float* left, const float* right,
                   int64_t channel, int64_t pixel, Prefetch prefetch) {
  switch (rows) {
    case 1: return multiply_tile<Math, 1>(task, left, right, channel, pixel, prefetch);
    case 2: return multiply_tile<Math, 2>(task, left, right, channel, pixel, prefetch);
    case 3: return multiply_tile<Math, 3>(task, left, right, channel, pixel, prefetch);
    case 4: return multiply_tile<Math, 4>(task, left, right, channel, pixel, prefetch);
    case 5: return multiply_tile<Math, 5>(task, left, right, channel, pixel, prefetch);
    default: return multiply_tile<Math, 6>(task, left, right, channel, pixel, prefetch);
  }
}

template <class Math>
void multiply_block(const PointwiseTask& task, const Block& block, const float* panels,
                    Copy* aside) {
  const PointwiseRun& run = *task.run;
  for (int64_t tile = task.first_tile; tile < task.last_tile; ++tile) {
    const int64_t channel = tile * kTileRows;
    const int64_t rows = smaller(kTileRows, run.problem->out_channels - channel);
    const float* left = run.packed + tile * kTileRows * run.cells;
    for (int64_t panel = 0; panel < block.panels; ++panel) {
      step_copy<typename Math::Copied>(aside);
      const float* right = panels + panel * run.stride;
      const int64_t pixel = block.first_pixel + panel * kPanel;
      if (aside->unit < run.copied) {
        multiply_rows<Math>(task, rows, left, right, channel, pixel,
                            next_fetch<typename Math::Copied>(*aside));
      } else {
        multiply_rows<Math>(task, rows, left, right, channel, pixel, NoFetch{});
      }
    }
  }
}

}  // namespace
}  // namespace bidiff
