// Full-precision 1x1 convolution as a product of matrices, lanes = pixels.
//
// A task takes the pixels of an image block by block. A block's input, all channels, is first
// copied to panels that fit in the level-2 cache; the channels themselves are too far apart to be
// read in turn: at power-of-two strides their lines share a few sets of the cache, and no hardware
// prefetcher follows. While a block is multiplied, the next one is copied, a few channels per tile.
#include "pointwise.h"

#include "gemm.h"

namespace bidiff {
namespace {

constexpr int64_t kBlockFloats = int64_t{64} << 10;  // of a block's input
constexpr int64_t kBlockColumns = 1024;              // at most: 4 KB of each channel
constexpr int64_t kLargeOutput = int64_t{2}
                                 << 20;  // floats: it would evict the panels from the cache
constexpr int64_t kTasksPerProcessor = 4;

struct PointwiseRun {
  const PointwiseProblem* problem;
  const float* packed;
  int64_t pixels, depth, cells;  // depth: channels of both maps
  int64_t copied;                // rows of cells that a block is copied to: see scale_panel
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

// Copies a block to panels, `step` rows of cells at a time. What the next step reads is prefetched
// during the products in between.
struct Copy {
  const PointwiseTask* task;
  Block block;
  float* panels;
  int64_t cell, step;
};

template <class Math>
void step_copy(Copy* copy) {
  const PointwiseRun& run = *copy->task->run;
  const int64_t past = smaller(copy->cell + copy->step, run.copied);
  for (; copy->cell < past; ++copy->cell) {
    const float* first = channel_of(*copy->task, copy->cell * Math::kDepth);
    const float* second = nullptr;
    if (Math::kDepth == 2) second = channel_of(*copy->task, copy->cell * Math::kDepth + 1);
    gather_row<Math>(first + copy->block.first_pixel,
                     second ? second + copy->block.first_pixel : nullptr, copy->block.pixels,
                     copy->panels + copy->cell * kPanel, run.stride);
  }
}

template <class Math>
Fetch next_fetch(const Copy& copy) {
  const PointwiseRun& run = *copy.task->run;
  Fetch fetch;
  const float* next = channel_of(*copy.task, copy.cell * Math::kDepth) + copy.block.first_pixel;
  for (const char*& start : fetch.runs) start = reinterpret_cast<const char*>(next);
  // During a tile's products, of run.cells steps.
  fetch.bytes = quotient_up(copy.block.pixels * int64_t{sizeof(float)}, run.cells);
  for (int i = 1; i < Fetch::kRuns && i < copy.step * Math::kDepth; ++i) {
    const float* from = channel_of(*copy.task, copy.cell * Math::kDepth + i);
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
  Floats sums[kRows][kTileVectors] = {};
  add_products<Math, kRows>(left, 1, kTileRows, right, run.cells, sums, prefetch);
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
      if (aside->cell < run.copied) {
        multiply_rows<Math>(task, rows, left, right, channel, pixel,
                            next_fetch<typename Math::Copied>(*aside));
      } else {
        multiply_rows<Math>(task, rows, left, right, channel, pixel, NoFetch{});
      }
    }
  }
}

template <class Math>
void pointwise_task(void* user, size_t index) {
  PointwiseRun& run = *static_cast<PointwiseRun*>(user);
  int64_t rest = static_cast<int64_t>(index);
  PointwiseTask task;
  task.run = &run;
  task.first_tile = rest % run.tile_groups * run.task_tiles;
  task.last_tile = smaller(task.first_tile + run.task_tiles, run.row_tiles);
  rest /= run.tile_groups;
  task.image = rest / run.tasks_per_image;
  const int64_t first = rest % run.tasks_per_image * run.task_panels;
  const int64_t past = smaller(first + run.task_panels, quotient_up(run.pixels, kPanel));

  const int64_t buffer = run.block_panels * run.stride;
  const bool several = past - first > run.block_panels;
  const size_t bytes = static_cast<size_t>(buffer * (several ? 2 : 1)) * sizeof(float);
  float* panels = static_cast<float*>(thread_scratch(2, bytes));
  if (!panels) return mark_failed(&run.failure);
  float* other = panels + (several ? buffer : 0);

  Copy copy{&task, block_at(run, first, past), panels, 0, run.copied};
  step_copy<typename Math::Copied>(&copy);
  for (int64_t at = first; at < past; at += run.block_panels) {
    const Block block = block_at(run, at, past);
    const int64_t tiles = block.panels * (task.last_tile - task.first_tile);
    const int64_t next = at + block.panels;
    if constexpr (Math::kScaled) {
      for (int64_t i = 0; i < block.panels; ++i) {
        scale_panel<Math>(panels + i * run.stride, run.depth);
      }
    }
    copy = {&task, block, other, run.copied, 1};
    if (next < past) {
      copy = {&task, block_at(run, next, past), other, 0, quotient_up(run.copied, tiles)};
    }
    multiply_block<Math>(task, block, panels, &copy);
    float* const done = panels;
    panels = other;
    other = done;
  }
  if (run.past_cache) stream_fence();
}

template <class Math>
bool run_pointwise(const PointwiseProblem& problem, const void* packed, const Parallel& parallel) {
  PointwiseRun run{};
  run.problem = &problem;
  run.packed = static_cast<const float*>(packed);
  run.pixels = problem.shape.height * problem.shape.width;
  run.depth = problem.shape.channels + problem.second_channels;
  run.cells = cells_of<Math>(run.depth);
  run.copied = cells_of<typename Math::Copied>(run.depth);
  run.stride = value_panel_stride<Math>(run.depth);

  const int64_t panels = quotient_up(run.pixels, kPanel);
  const int64_t wanted = kTasksPerProcessor * processors();
  const int64_t parts = quotient_up(wanted, problem.shape.batch);
  run.task_panels = quotient_up(panels, parts);
  run.tasks_per_image = quotient_up(panels, run.task_panels);
  const int64_t columns = smaller(kBlockFloats / run.copied, kBlockColumns);
  run.block_panels = larger(1, smaller(columns / kPanel, run.task_panels));

  // Few pixels: the output channels are divided among tasks as well.
  run.row_tiles = quotient_up(problem.out_channels, kTileRows);
  run.row_scales = run.packed + run.row_tiles * kTileRows * run.cells;
  const int64_t groups = quotient_up(wanted, run.tasks_per_image * problem.shape.batch);
  run.task_tiles = quotient_up(run.row_tiles, groups);
  run.tile_groups = quotient_up(run.row_tiles, run.task_tiles);

  const int64_t outputs = problem.shape.batch * problem.out_channels * run.pixels;
  run.past_cache = outputs >= kLargeOutput && run.pixels % kLanes == 0 &&
                   reinterpret_cast<uintptr_t>(problem.y) % sizeof(Floats) == 0;

  const int64_t products = outputs * run.depth;
  const int64_t tasks = problem.shape.batch * run.tasks_per_image * run.tile_groups;
  run_tasks(parallel, products * kFloatWork, static_cast<size_t>(tasks), pointwise_task<Math>,
            &run);
  return !run.failure.failed;
}

// Packed weights: tiles of kTileRows rows, each (depth cells, kTileRows), zeros beyond the last
// row; then the scales of all rows of integers.
template <class Math>
int64_t weight_floats(int64_t out_channels, int64_t in_channels) {
  return quotient_up(out_channels, kTileRows) * kTileRows * cells_of<Math>(in_channels);
}
template <class Math>
size_t bytes_of(int64_t out_channels, int64_t in_channels) {
  const int64_t scales = Math::kScaled ? quotient_up(out_channels, kTileRows) * kTileRows : 0;
  return static_cast<size_t>(weight_floats<Math>(out_channels, in_channels) + scales) *
         sizeof(float);
}

template <class Math>
void pack_weight(const float* weight, int64_t rows, int64_t depth, float* packed) {
  const int64_t cells = cells_of<Math>(depth);
  float* const scales = packed + weight_floats<Math>(rows, depth);
  memset(packed, 0, bytes_of<Math>(rows, depth));
  for (int64_t row = 0; row < rows; ++row, weight += depth) {
    float* const tile = packed + row / kTileRows * kTileRows * cells + row % kTileRows;
    float factor = 1;
    if constexpr (Math::kScaled) {
      RowScale magnitudes;
      for (int64_t i = 0; i < depth; ++i) magnitudes.add(static_cast<double>(weight[i]));
      const double scale = magnitudes.of<Math>(depth);
      scales[row] = static_cast<float>(scale);
      factor = static_cast<float>(scale > 0 ? 1 / scale : 0);
    }
    for (int64_t i = 0; i < depth; ++i) {
      put_factor<Math>(tile + i / Math::kDepth * kTileRows, i % Math::kDepth, weight[i] * factor);
    }
  }
}

size_t packed_bytes(int64_t out_channels, int64_t in_channels, Precision precision) {
  const bool rounded = precision == Precision::kBfloat16;
  return (rounded ? bytes_of<Rounded> : bytes_of<Float32>)(out_channels, in_channels);
}

void pack(const float* weight, int64_t out_channels, int64_t in_channels, Precision precision,
          void* packed) {
  const bool rounded = precision == Precision::kBfloat16;
  (rounded ? pack_weight<Rounded> : pack_weight<Float32>)(weight, out_channels, in_channels,
                                                          static_cast<float*>(packed));
}

bool run(const PointwiseProblem& problem, const void* packed, Precision precision,
         const Parallel& parallel) {
  const bool rounded = precision == Precision::kBfloat16;
  return (rounded ? run_pointwise<Rounded> : run_pointwise<Float32>)(problem, packed, parallel);
}

}  // namespace

namespace BIDIFF_ISA {
extern const PointwiseKernel kPointwise = {packed_bytes, pack, run};
}

}  // namespace bidiff
