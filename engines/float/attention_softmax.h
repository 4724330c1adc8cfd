// From the scores of a block of keys to their probabilities as cells, for a panel of queries.
#pragma once

#include "attention_pack.h"

namespace bidiff {
namespace {

constexpr float kLowest = -3.4e38f;

// p = 2^((s - highest) * factor) of kCount keys from the scores on, as cells in their place.
template <class Math, int kCount>
BIDIFF_INLINE void soften_keys(const float* from, Floats highest, Floats factor, Floats* total,
                               float* to) {
  Floats t[kCount], p[kCount];
  BIDIFF_EACH t[i] = (load(from + i * kPanel) - highest) * factor;
  exp2_each<kCount>(t, p);
  if (Math::kScaled) {
    BIDIFF_EACH p[i] = (p[i] * splat(kLargestWeight) + splat(kRounder)) - splat(kRounder);
  }
  BIDIFF_EACH total[0] += p[i];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; i += kUnit<Math>) {
    store_cells<Math>(p + i, to + i / Math::kDepth * kPanel, kPanel);
  }
}

// Turns scores into probabilities, not yet divided by their sum, and rescales earlier sums.
template <class Math>
void soften_panel(const AttentionTask& task, int64_t panel, int64_t count) {
  constexpr int kTogether = kLanes == 16 ? 8 : 4;
  const Floats scale = splat(task.run->scale), factor = scale * splat(kLog2E);
  Floats highest[kTileVectors];  // of the block
  for (int v = 0; v < kTileVectors; ++v) highest[v] = splat(kLowest);
  for (int64_t key = 0; key < count; ++key) {
    for (int v = 0; v < kTileVectors; ++v) {
      highest[v] = bidiff::maximum(highest[v], load(task.scores + key * kPanel + v * kLanes));
    }
  }
  // Cells hold several keys; the value that goes with a key after the last one is 0.
  for (int64_t key = count; key % kUnit<Math> != 0; ++key) {
    for (int v = 0; v < kTileVectors; ++v) {
      store(task.scores + key * kPanel + v * kLanes, splat(kLowest));
    }
  }
  for (int v = 0; v < kTileVectors; ++v) {
    const int64_t at = v * kLanes;
    float* maxima = task.maxima + panel * kPanel + at;
    float* totals = task.totals + panel * kPanel + at;
    float* scores = task.scores + at;
    const Floats before = load(maxima), maximum = bidiff::maximum(before, highest[v]);
    const Floats subtracted = Math::kScaled ? highest[v] : maximum;
    const Floats rescale = exp((before - maximum) * scale);
    Floats total = {};
    int64_t key = 0;
    for (; key + kTogether <= count; key += kTogether) {
      soften_keys<Math, kTogether>(scores + key * kPanel, subtracted, factor, &total,
                                   scores + key / Math::kDepth * kPanel);
    }
    for (; key < count; key += kUnit<Math>) {
      soften_keys<Math, kUnit<Math>>(scores + key * kPanel, subtracted, factor, &total,
                                     scores + key / Math::kDepth * kPanel);
    }
    if (Math::kScaled) {
      const Floats weight = exp((highest[v] - maximum) * scale) * splat(1.0f / kLargestWeight);
      store(task.weights + at, weight);
      total *= weight;
    }
    store(task.rescale + at, rescale);
    store(totals, load(totals) * rescale + total);
    store(maxima, maximum);
  }
}

}  // namespace
}  // namespace bidiff
