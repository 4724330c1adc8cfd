// Single-head self-attention without its map: softmax(q^T k) v^T block by block, lanes = queries.
//
// A task holds a block of queries and passes once over all keys and values. For a block of keys,
//   s[j, i] = sum over d of k[d, j] * q[d, i]
// is a product with keys as rows; after p = exp2((s - max) / sqrt(C)) it is, without repacking, the
// right operand of
//   mixed[c, i] = rescale[i] * mixed[c, i] + sum over j of v[c, j] * p[j, i],
// where rescale accounts for a maximum that grew. Maximum, rescale and the sum of p are per lane,
// so nothing is reduced across lanes.
#include "attention.h"

#include "gemm.h"

namespace bidiff {
namespace {

constexpr int64_t kBlockFloats = int64_t{128} << 10;  // of a block of queries, and of keys
constexpr int64_t kMaxQueries = 512;
constexpr int64_t kMinKeys = 48, kMaxKeys = 132;  // multiples of kTileRows
constexpr int64_t kTasksPerProcessor = 2;

struct AttentionRun {
  const AttentionProblem* problem;
  float scale;
  int64_t cells;  // of depth C
  int64_t task_panels, tasks_per_image;
  int64_t block_keys, value_step;
  TaskFailure failure;
};

// A task's memory, all in floats.
struct AttentionTask {
  const AttentionRun* run;
  const float *query, *key, *value;  // of the image
  float* mixed;
  int64_t first_query, queries, panels;
  float* query_panels;
  float* sums;     // (panels, C, kPanel): mixed before its division by `totals`
  float* maxima;   // (panels, kPanel)
  float* totals;   // (panels, kPanel): sums of p
  float* scores;   // (block_keys, kPanel): s, then p as cells
  float* rescale;  // (kPanel)
  float* keys;     // tiles of kTileRows keys, each (depth cells, kTileRows)
  float* values;   // (C, value_step): cells along the keys, unless read from the input directly
  float* row;      // one row of keys' cells
};

int64_t row_floats(int64_t keys) { return quotient_up(keys, kPanel) * kPanel + kTileRows; }

bool take_memory(AttentionTask* task) {
  const AttentionRun& run = *task->run;
  const int64_t channels = run.problem->channels, columns = run.task_panels * kPanel;
  int64_t sizes[] = {run.task_panels * panel_stride(run.cells),
                     channels * columns,
                     columns,
                     columns,
                     (run.block_keys + 1) * kPanel,
                     kPanel,
                     run.cells * run.block_keys,
                     channels * run.value_step,
                     row_floats(run.block_keys)};
  float** parts[] = {&task->query_panels, &task->sums, &task->maxima, &task->totals, &task->scores,
                     &task->rescale,      &task->keys, &task->values, &task->row};
  constexpr int kParts = sizeof(sizes) / sizeof(sizes[0]);
  int64_t all = 0;
  for (int i = 0; i < kParts; ++i) all += sizes[i] = quotient_up(sizes[i], 16) * 16;
  float* memory = static_cast<float*>(thread_scratch(3, static_cast<size_t>(all) * sizeof(float)));
  if (!memory) return false;
  for (int i = 0; i < kParts; memory += sizes[i++]) *parts[i] = memory;
  return true;
}

template <class Math>
void pack_queries(const AttentionTask& task) {
  const AttentionRun& run = *task.run;
  const int64_t channels = run.problem->channels, positions = run.problem->positions;
  const float* from = task.query + task.first_query;
  for (int64_t cell = 0; cell < run.cells; ++cell, from += Math::kDepth * positions) {
    const bool pair = cell * Math::kDepth + 1 < channels;
    gather_row<Math>(from, pair ? from + positions : nullptr, task.queries,
                     task.query_panels + cell * kPanel, panel_stride(run.cells));
  }
}

template <class Math>
void pack_keys(const AttentionTask& task, int64_t first, int64_t count) {
  const AttentionRun& run = *task.run;
  const int64_t channels = run.problem->channels, positions = run.problem->positions;
  const float* from = task.key + first;
  for (int64_t cell = 0; cell < run.cells; ++cell, from += Math::kDepth * positions) {
    const bool pair = cell * Math::kDepth + 1 < channels;
    gather_row<Math>(from, pair ? from + positions : nullptr, count, task.row, kPanel);
    float* to = task.keys + cell * kTileRows;
    for (int64_t at = 0; at < count; at += kTileRows, to += run.cells * kTileRows) {
      memcpy(to, task.row + at, kTileRows * sizeof(float));
    }
  }
}

template <class Math, int kRows>
__attribute__((noinline)) void score_tile(const float* keys, const float* queries, int64_t cells,
                                          float* scores) {
  Floats sums[kRows][kTileVectors] = {};
  add_products<Math, kRows>(keys, 1, kTileRows, queries, cells, sums, NoFetch{});
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kTileVectors; ++v) store(scores + row * kPanel + v * kLanes, sums[row][v]);
  }
}

template <class Math>
void score_panel(const AttentionTask& task, int64_t panel, int64_t count) {
  const int64_t cells = task.run->cells;
  const float* queries = task.query_panels + panel * panel_stride(cells);
  for (int64_t at = 0; at < count; at += kTileRows) {
    const float* keys = task.keys + at * cells;
    float* scores = task.scores + at * kPanel;
    switch (smaller(count - at, kTileRows)) {
      case 1: score_tile<Math, 1>(keys, queries, cells, scores); break;
      case 2: score_tile<Math, 2>(keys, queries, cells, scores); break;
      case 3: score_tile<Math, 3>(keys, queries, cells, scores); break;
      case 4: score_tile<Math, 4>(keys, queries, cells, scores); break;
      case 5: score_tile<Math, 5>(keys, queries, cells, scores); break;
      default: score_tile<Math, 6>(keys, queries, cells, scores);
    }
  }
}

// Turns scores into probabilities, not yet divided by their sum, and rescales earlier sums.
template <class Math>
void soften_panel(const AttentionTask& task, int64_t panel, int64_t count) {
  const Floats scale = splat(task.run->scale * kLog2E);
  for (int64_t at = 0; at < kPanel; at += kLanes) {
    float* maxima = task.maxima + panel * kPanel + at;
    float* totals = task.totals + panel * kPanel + at;
    float* scores = task.scores + at;
    const Floats before = load(maxima);
    Floats maximum = before;
    for (int64_t key = 0; key < count; ++key) {
      const Floats score = load(scores + key * kPanel);
      maximum = select(score > maximum, score, maximum);
    }
    Floats total = {};
    for (int64_t key = 0; key < count; key += Math::kDepth) {
      const Floats first = exp2((load(scores + key * kPanel) - maximum) * scale);
      Floats second = {};
      total += first;
      if (Math::kDepth == 2 && key + 1 < count) {
        second = exp2((load(scores + (key + 1) * kPanel) - maximum) * scale);
        total += second;
      }
      store(scores + key / Math::kDepth * kPanel, Math::cells(first, second));
    }
    const Floats rescale = exp2((before - maximum) * scale);
    store(task.rescale + at, rescale);
    store(totals, load(totals) * rescale + total);
    store(maxima, maximum);
  }
}

template <class Math, int kRows>
__attribute__((noinline)) void mix_tile(const AttentionTask& task, const float* values,
                                        int64_t step, int64_t cells, float* mixed) {
  Floats sums[kRows][kTileVectors] = {};
  add_products<Math, kRows>(values, step, 1, task.scores, cells, sums, NoFetch{});
  for (int v = 0; v < kTileVectors; ++v) {
    const Floats rescale = load(task.rescale + v * kLanes);
    for (int row = 0; row < kRows; ++row) {
      float* to = mixed + row * kPanel + v * kLanes;
      store(to, load(to) * rescale + sums[row][v]);
    }
  }
}

template <class Math>
void mix_panel(const AttentionTask& task, int64_t panel, const float* values, int64_t step,
               int64_t count) {
  const int64_t channels = task.run->problem->channels, cells = cells_of<Math>(count);
  float* mixed = task.sums + panel * channels * kPanel;
  for (int64_t left = channels; left > 0; left -= kTileRows) {
    switch (smaller(left, kTileRows)) {
      case 1: mix_tile<Math, 1>(task, values, step, cells, mixed); break;
      case 2: mix_tile<Math, 2>(task, values, step, cells, mixed); break;
      case 3: mix_tile<Math, 3>(task, values, step, cells, mixed); break;
      case 4: mix_tile<Math, 4>(task, values, step, cells, mixed); break;
      case 5: mix_tile<Math, 5>(task, values, step, cells, mixed); break;
      default: mix_tile<Math, 6>(task, values, step, cells, mixed);
    }
    values += kTileRows * step;
    mixed += kTileRows * kPanel;
  }
}

void write_mixed(const AttentionTask& task) {
  const int64_t channels = task.run->problem->channels, positions = task.run->problem->positions;
  for (int64_t channel = 0; channel < channels; ++channel) {
    float* to = task.mixed + channel * positions + task.first_query;
    for (int64_t at = 0; at < task.queries; at += kLanes) {
      const int64_t panel = at / kPanel, lane = at % kPanel;
      const float* sums = task.sums + (panel * channels + channel) * kPanel + lane;
      const Floats value = load(sums) / load(task.totals + at);
      if (task.queries - at >= kLanes) {
        store(to + at, value);
      } else {
        store_part(to + at, value, task.queries - at);
      }
    }
  }
}

template <class Math>
void attention_task(void* user, size_t index) {
  AttentionRun& run = *static_cast<AttentionRun*>(user);
  const AttentionProblem& problem = *run.problem;
  const int64_t channels = problem.channels, positions = problem.positions;
  const int64_t image = static_cast<int64_t>(index) / run.tasks_per_image;
  AttentionTask task{};
  task.run = &run;
  if (!take_memory(&task)) return mark_failed(&run.failure);
  task.query = problem.qkv + image * 3 * channels * positions;
  task.key = task.query + channels * positions;
  task.value = task.key + channels * positions;
  task.mixed = problem.mixed + image * channels * positions;
  task.first_query = static_cast<int64_t>(index) % run.tasks_per_image * run.task_panels * kPanel;
  task.queries = smaller(run.task_panels * kPanel, positions - task.first_query);
  task.panels = quotient_up(task.queries, kPanel);

  const size_t columns = static_cast<size_t>(run.task_panels * kPanel);
  memset(task.sums, 0, columns * static_cast<size_t>(channels) * sizeof(float));
  memset(task.totals, 0, columns * sizeof(float));
  memset(task.row, 0, static_cast<size_t>(row_floats(run.block_keys)) * sizeof(float));
  for (size_t i = 0; i < columns; i += kLanes) store(task.maxima + i, splat(-3.4e38f));
  pack_queries<Math>(task);
  for (int64_t first = 0; first < positions; first += run.block_keys) {
    const int64_t count = smaller(run.block_keys, positions - first);
    pack_keys<Math>(task, first, count);
    const float* values = task.value + first;
    int64_t step = positions;
    if (run.value_step) {
      for (int64_t channel = 0; channel < channels; ++channel) {
        Math::row_cells(values + channel * positions, count,
                        task.values + channel * run.value_step);
      }
      values = task.values;
      step = run.value_step;
    }
    for (int64_t panel = 0; panel < task.panels; ++panel) {
      score_panel<Math>(task, panel, count);
      soften_panel<Math>(task, panel, count);
      mix_panel<Math>(task, panel, values, step, count);
    }
  }
  write_mixed(task);
}

template <class Math>
bool run_attention(const AttentionProblem& problem, const Parallel& parallel) {
  AttentionRun run{};
  run.problem = &problem;
  run.scale = 1.0f / __builtin_sqrtf(static_cast<float>(problem.channels));
  run.cells = cells_of<Math>(problem.channels);

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
  return (rounded ? run_attention<Unscaled> : run_attention<Float32>)(problem, parallel);
}

}  // namespace

namespace BIDIFF_ISA {
extern const AttentionKernel kAttention = {run};
}

}  // namespace bidiff
