// Single-head self-attention without its map: softmax(q^T k) v^T block by block, lanes = queries.
//
// A task holds a block of queries and passes once over all keys and values. For a block of keys,
//   s[j, i] = sum over d of k[d, j] * q[d, i]
// is a product with keys as rows; after p = exp((s - max) / sqrt(C)) it is, without repacking, the
// right operand of
//   mixed[c, i] = rescale[i] * mixed[c, i] + sum over j of v[c, j] * p[j, i],
// where rescale accounts for a maximum that grew. Maximum, rescale and the sum of p are per lane,
// so nothing is reduced across lanes.
//
// As integers, q has a scale for each query, k for each key, v for each channel of a block, and p,
// whose largest value in a block is exp((block's maximum - maximum) / sqrt(C)), for each query of a
// block. The sum of p is that of the rounded ones.
#include "attention_softmax.h"

namespace bidiff {
namespace {

constexpr int64_t kBlockFloats = int64_t{128} << 10;  // of a block of queries, and of keys
constexpr int64_t kMaxQueries = 512;
constexpr int64_t kMinKeys = 48, kMaxKeys = 132;  // multiples of kTileRows
constexpr int64_t kTasksPerProcessor = 2;

// `scales`: of the keys and of the queries.
template <class Math, int kRows>
__attribute__((noinline)) void score_tile(const float* keys, const float* queries, int64_t cells,
                                          Scales scales, float* scores) {
  Floats sums[sum_rows<Math>(kRows)][kTileVectors] = {};
  add_products<Math, kRows>(keys, Math::kCellRows, kTileRows, queries, cells, sums, NoFetch{});
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kTileVectors; ++v) {
      Floats score = Math::sums(sums[row][v]);
      if (Math::kScaled) score *= splat(scales.rows[row]) * load(scales.columns + v * kLanes);
      store(scores + row * kPanel + v * kLanes, score);
    }
  }
}

template <class Math>
void score_panel(const AttentionTask& task, int64_t panel, int64_t count) {
  const int64_t cells = task.run->cells;
  const float* queries = task.query_panels + panel * task.run->query_stride;
  for (int64_t at = 0; at < count; at += kTileRows) {
    const float* keys = task.keys + at * cells;
    float* scores = task.scores + at * kPanel;
    const Scales scales = {task.key_scales + at, queries + task.run->problem->channels * kPanel};
    switch (smaller(count - at, kTileRows)) {
      case 1: score_tile<Math, 1>(keys, queries, cells, scales, scores); break;
      case 2: score_tile<Math, 2>(keys, queries, cells, scales, scores); break;
      case 3: score_tile<Math, 3>(keys, queries, cells, scales, scores); break;
      case 4: score_tile<Math, 4>(keys, queries, cells, scales, scores); break;
      case 5: score_tile<Math, 5>(keys, queries, cells, scales, scores); break;
      default: score_tile<Math, 6>(keys, queries, cells, scales, scores);
    }
  }
}

template <class Math, int kRows>
__attribute__((noinline)) void mix_tile(const AttentionTask& task, const float* values,
                                        int64_t step, int64_t cells, const float* scales,
                                        float* mixed) {
  Floats sums[sum_rows<Math>(kRows)][kTileVectors] = {};
  add_products<Math, kRows>(values, step, 1, task.scores, cells, sums, NoFetch{});
  for (int v = 0; v < kTileVectors; ++v) {
    const Floats rescale = load(task.rescale + v * kLanes);
    for (int row = 0; row < kRows; ++row) {
      float* to = mixed + row * kPanel + v * kLanes;
      Floats sum = Math::sums(sums[row][v]);
      if (Math::kScaled) sum *= splat(scales[row]) * load(task.weights + v * kLanes);
      store(to, load(to) * rescale + sum);
    }
  }
}

template <class Math>
void mix_panel(const AttentionTask& task, int64_t panel, const float* values, int64_t step,
               int64_t count) {
  const int64_t channels = task.run->problem->channels, cells = cells_of<Math>(count);
  float* mixed = task.sums + panel * channels * kPanel;
  const float* scales = task.value_scales;
  for (int64_t left = channels; left > 0; left -= kTileRows) {
    switch (smaller(left, kTileRows)) {
      case 1: mix_tile<Math, 1>(task, values, step, cells, scales, mixed); break;
      case 2: mix_tile<Math, 2>(task, values, step, cells, scales, mixed); break;
      case 3: mix_tile<Math, 3>(task, values, step, cells, scales, mixed); break;
      case 4: mix_tile<Math, 4>(task, values, step, cells, scales, mixed); break;
      case 5: mix_tile<Math, 5>(task, values, step, cells, scales, mixed); break;
      default: mix_tile<Math, 6>(task, values, step, cells, scales, mixed);
    }
    values += kTileRows * step;
    scales += kTileRows;
    mixed += kTileRows * kPanel;
  }
}

void write_output(const AttentionTask& task) {
  const AttentionProblem& problem = *task.run->problem;
  const int64_t channels = problem.channels;
  for (int64_t channel = 0; channel < channels; ++channel) {
    const int64_t first = (task.image * channels + channel) * problem.positions + task.first_query;
    const Floats bias = splat(problem.bias[channel]);
    for (int64_t at = 0; at < task.queries; at += kLanes) {
      const int64_t panel = at / kPanel, lane = at % kPanel;
      const float* sums = task.sums + (panel * channels + channel) * kPanel + lane;
      const int64_t left = smaller(task.queries - at, kLanes);
      const Floats mixed = load(sums) / load(task.totals + at) + bias;
      const Floats value = mixed + load_part(problem.skip + first + at, left);
      if (left == kLanes) {
        store(problem.y + first + at, value);
      } else {
        store_part(problem.y + first + at, value, left);
      }
    }
  }
}

template <class Math>
void attention_task(void* user, size_t index) {
  AttentionRun& run = *static_cast<AttentionRun*>(user);
  const AttentionProblem& problem = *run.problem;
  const int64_t channels = problem.channels, positions = problem.positions;
  const int64_t size = channels * positions;
  AttentionTask task{};
  task.run = &run;
  task.image = static_cast<int64_t>(index) / run.tasks_per_image;
  if (!take_memory(&task)) return mark_failed(&run.failure);
  task.query = problem.query_value + task.image * 2 * size;
  task.value = task.query + size;
  task.key = problem.key + task.image * size;
  task.first_query = static_cast<int64_t>(index) % run.tasks_per_image * run.task_panels * kPanel;
  task.queries = smaller(run.task_panels * kPanel, positions - task.first_query);
  task.panels = quotient_up(task.queries, kPanel);

  const size_t columns = static_cast<size_t>(run.task_panels * kPanel);
  memset(task.sums, 0, columns * static_cast<size_t>(channels) * sizeof(float));
  memset(task.totals, 0, columns * sizeof(float));
  memset(task.row, 0, static_cast<size_t>(row_floats(run.block_keys)) * sizeof(float));
  for (size_t i = 0; i < columns; i += kLanes) store(task.maxima + i, splat(kLowest));
  pack_queries<Math>(task);
  for (int64_t first = 0; first < positions; first += run.block_keys) {
    const int64_t count = smaller(run.block_keys, positions - first);
    pack_keys<Math>(task, first, count);
    const float* values = task.value + first;
    int64_t step = positions;
    if (run.value_step) {
      pack_values<Math>(task, values, count);
      values = task.values;
      step = run.value_step;
    }
    for (int64_t panel = 0; panel < task.panels; ++panel) {
      score_panel<Math>(task, panel, count);
      soften_panel<Math>(task, panel, count);
      mix_panel<Math>(task, panel, values, step, count);
    }
  }
  write_output(task);
}

template <class Math>
bool run_attention(const AttentionProblem& problem, const Parallel& parallel) {
  AttentionRun run{};
  run.problem = &problem;
  run.scale = 1.0f / __builtin_sqrtf(static_cast<float>(problem.channels));
  run.cells = cells_of<Math>(problem.channels);
  run.query_stride = value_panel_stride<Math>(problem.channels);

  const int64_t panels = quotient_up(problem.positions, kPanel);
  const int64_t parts = quotient_up(kTasksPerProcessor * processors(), problem.batch);
  const int64_t max_panels = smaller(kMaxQueries, kBlockFloats / problem.channels) / kPanel;
  run.task_panels = larger(1, smaller(max_panels, quotient_up(panels, parts)));
  run.tasks_per_image = quotient_up(panels, run.task_panels);

  const int64_t keys = smaller(kMaxKeys, larger(kMinKeys, kBlockFloats / run.cells));
  const int64_t blocks = quotient_up(problem.positions, keys);
  run.block_keys = quotient_up(quotient_up(problem.positions, blocks), kTileRows) * kTileRows;
  if (Math::kDepth == 2) run.value_step = quotient_up(run.block_keys, 2 * kLanes) * kLanes + 16;

  const int64_t products =
      2 * problem.batch * problem.channels * problem.positions * problem.positions;
  run_tasks(parallel, products * kFloatWork,
            static_cast<size_t>(problem.batch * run.tasks_per_image), attention_task<Math>, &run);
  return !run.failure.failed;
}

bool run(const AttentionProblem& problem, Precision precision, const Parallel& parallel) {
  const bool rounded = precision == Precision::kBfloat16;
  return (rounded ? run_attention<Rounded> : run_attention<Float32>)(problem, parallel);
}

}  // namespace

namespace BIDIFF_ISA {
extern const AttentionKernel kAttention = {run};
}

}  // namespace bidiff
