// Full-precision 1x1 convolution as a product of matrices, lanes = pixels.
//
// A task takes the pixels of an image block by block. A block's input, all channels, is first
// copied to panels that fit in the level-2 cache; the channels themselves are too far apart to be
// read in turn: at power-of-two strides their lines share a few sets of the cache, and no hardware
// prefetcher follows. While a block is multiplied, the next one is copied, a few channels per tile.
#include "pointwise.h"

#include "pointwise_block.h"
#include "pointwise_weights.h"

namespace bidiff {
namespace {

constexpr int64_t kBlockFloats = int64_t{64} << 10;  // of a block's input
constexpr int64_t kBlockColumns = 1024;              // at most: 4 KB of each channel
constexpr int64_t kLargeOutput = int64_t{2}
                                 << 20;  // floats: it would evict the panels from the cache
constexpr int64_t kTasksPerProcessor = 4;

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
  run.copied = quotient_up(run.depth, kUnit<typename Math::Copied>);
  run.stride = value_panel_stride<Math>(run.depth);

  const int64_t panels = quotient_up(run.pixels, kPanel);
  const int64_t wanted = kTasksPerProcessor * processors();
  const int64_t parts = quotient_up(wanted, problem.shape.batch);
  run.task_panels = quotient_up(panels, parts);
  run.tasks_per_image = quotient_up(panels, run.task_panels);
  const int64_t rows = run.copied * Math::Copied::kCellRows;
  const int64_t columns = smaller(kBlockFloats / rows, kBlockColumns);
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
