// A task of attention: its memory, and queries, keys and values as the operands of its products.
#pragma once

#include "attention.h"
#include "gemm.h"

namespace bidiff {
namespace {

constexpr float kLargestWeight = 32767.0f;  // of p as an integer

struct AttentionRun {
  const AttentionProblem* problem;
  float scale;
  int64_t cells;         // of depth C
  int64_t query_stride;  // floats from panel to panel
  int64_t task_panels, tasks_per_image;
  int64_t block_keys, value_step;
  TaskFailure failure;
};

// A task's memory, all in floats.
struct AttentionTask {
  const AttentionRun* run;
  int64_t image;
  const float *query, *key, *value;  // of the image
  int64_t first_query, queries, panels;
  float* query_panels;
  float* sums;          // (panels, C, kPanel): mixed before its division by `totals`
  float* maxima;        // (panels, kPanel)
  float* totals;        // (panels, kPanel): sums of p
  float* scores;        // (block_keys, kPanel): s, then p as cells
  float* rescale;       // (kPanel)
  float* weights;       // (kPanel): scales of p as integers
  float* key_scales;    // (block_keys): of integers, as the next ones
  float* value_scales;  // (C)
  float* keys;          // tiles of kTileRows keys, each (depth cells, kTileRows) by left_place()
  float* values;  // (C, value_step): cells along the keys, unless read from the input directly
  float* row;     // one row of keys' cells
};

int64_t row_floats(int64_t keys) {
  return (quotient_up(keys, kPanel) * kPanel + kTileRows) * Rounded::kCellRows;
}

bool take_memory(AttentionTask* task) {
  const AttentionRun& run = *task->run;
  const int64_t channels = run.problem->channels, columns = run.task_panels * kPanel;
  constexpr int64_t kRest = kUnit<Rounded>;  // beyond the last key, see soften_panel
  int64_t sizes[] = {run.task_panels * run.query_stride,
                     channels * columns,
                     columns,
                     columns,
                     (run.block_keys + kRest) * kPanel,
                     kPanel,
                     kPanel,
                     round_up(run.block_keys, kLanes),
                     channels,
                     run.cells * run.block_keys,
                     channels * run.value_step,
                     row_floats(run.block_keys)};
  float** parts[] = {&task->query_panels, &task->sums,    &task->maxima,  &task->totals,
                     &task->scores,       &task->rescale, &task->weights, &task->key_scales,
                     &task->value_scales, &task->keys,    &task->values,  &task->row};
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
  using Copied = typename Math::Copied;
  const AttentionRun& run = *task.run;
  const int64_t channels = run.problem->channels, positions = run.problem->positions;
  const float* from = task.query + task.first_query;
  float* to = task.query_panels;
  for (int64_t channel = 0; channel < channels; channel += kUnit<Copied>) {
    gather_unit<Copied>(unit_at<Copied>(from, positions, channels - channel), task.queries, to,
                        run.query_stride);
    from += kUnit<Copied> * positions;
    to += Copied::kCellRows * kPanel;
  }
  if constexpr (Math::kScaled) {
    for (int64_t panel = 0; panel < task.panels; ++panel) {
      scale_panel<Math>(task.query_panels + panel * run.query_stride, channels);
    }
  }
}

// The scales of a vector of keys, and what divides by them.
template <class Math>
Floats scale_keys(const AttentionTask& task, const float* keys, int64_t count, float* scales) {
  const int64_t channels = task.run->problem->channels, positions = task.run->problem->positions;
  Floats largest = splat(1e-30f), sum = {};
  for (int64_t channel = 0; channel < channels; ++channel) {
    const Floats value = magnitude(load_part(keys + channel * positions, count));
    largest = maximum(largest, value);
    sum += value;
  }
  const Floats scale = maximum(largest * splat(1.0f / Math::kLargest),
                               sum * splat(1.0f / Math::largest_sum(Math::kLargest, channels)));
  store(scales, scale);
  return splat(1.0f) / scale;
}

// Where gather_unit has the first cell of a column, in panels one after the other.
template <class Math>
BIDIFF_INLINE int64_t right_place(int64_t column) {
  const int64_t lane = column % kLanes, vector = column % kPanel - lane;
  return column / kPanel * Math::kCellRows * kPanel + lane * Math::kCellRows / kLanes * kPanel +
         vector + lane * Math::kCellRows % kLanes;
}

template <class Math>
void pack_keys(const AttentionTask& task, int64_t first, int64_t count) {
  const AttentionRun& run = *task.run;
  const int64_t channels = run.problem->channels, positions = run.problem->positions;
  const float* from = task.key + first;
  if constexpr (Math::kScaled) {
    const int64_t tile_cells = run.cells * kTileRows;
    for (int64_t at = 0; at < count; at += kLanes) {
      const int64_t keys = smaller(kLanes, count - at);
      const Floats factor = scale_keys<Math>(task, from + at, keys, task.key_scales + at);
      for (int64_t cell = 0; cell < run.cells; ++cell) {
        const float* pair = from + 2 * cell * positions + at;
        const Floats second =
            2 * cell + 1 < channels ? load_part(pair + positions, keys) * factor : Floats{};
        float cells[kLanes];
        store(cells, Math::cells(load_part(pair, keys) * factor, second));
        for (int64_t i = 0; i < keys; ++i) {
          const int64_t key = at + i;
          memcpy(task.keys + key / kTileRows * tile_cells + cell * kTileRows + key % kTileRows,
                 cells + i, sizeof(float));
        }
      }
    }
    return;
  }
  constexpr int64_t kRows = Math::kCellRows;
  for (int64_t cell = 0; cell < run.cells; cell += kRows, from += kUnit<Math> * positions) {
    const Unit<Math> unit = unit_at<Math>(from, positions, channels - cell * Math::kDepth);
    gather_unit<Math>(unit, count, task.row, kRows * kPanel);
    float* to = task.keys + cell * kTileRows;
    for (int64_t at = 0; at < count; at += kTileRows, to += run.cells * kTileRows) {
      if constexpr (kRows == 1) {
        memcpy(to, task.row + at, kTileRows * sizeof(float));
      } else {
        for (int64_t i = 0; i < kTileRows; ++i) {
          memcpy(to + i * kRows, task.row + right_place<Math>(at + i), kRows * sizeof(float));
        }
      }
    }
  }
}

// Cells along the keys of a block for every channel.
template <class Math>
void pack_values(const AttentionTask& task, const float* values, int64_t count) {
  const AttentionRun& run = *task.run;
  for (int64_t channel = 0; channel < run.problem->channels; ++channel) {
    const float* from = values + channel * run.problem->positions;
    float* to = task.values + channel * run.value_step;
    if constexpr (Math::kScaled) {
      Floats largest = splat(1e-30f), sums = {};
      for (int64_t at = 0; at < count; at += kLanes) {
        const Floats value = magnitude(load_part(from + at, smaller(kLanes, count - at)));
        largest = maximum(largest, value);
        sums += value;
      }
      float most = 0, sum = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        most = largest[lane] > most ? largest[lane] : most;
        sum += sums[lane];
      }
      const float by_sum = sum / Math::largest_sum(kLargestWeight, count);
      const float scale = by_sum > most / Math::kLargest ? by_sum : most / Math::kLargest;
      task.value_scales[channel] = scale;
      Math::scaled_row(from, count, splat(1.0f / scale), to);
    } else {
      Math::row_cells(from, count, to);
    }
  }
}

}  // namespace
}  // namespace bidiff
