// The matrix product that 1x1 convolutions and attention share: left (rows x depth) times right
// (depth x columns), lanes = columns.
//
// Both operands consist of cells, see factors.h. Right is cut into panels of kPanel columns, each
// stored (depth cells, kPanel), so that a tile reads it as one stream. A tile is kTileRows rows of
// one panel; its sums stay in registers. For the .cpp files of this folder only; unnamed namespace,
// see maps.h.
#pragma once

#include "factors.h"

namespace bidiff {
namespace {

// A tile's sums, one row of right and one broadcast of left have to fit the vector registers.
constexpr int kTileRows = 6;
#if BIDIFF_LANES == 16 || defined(__aarch64__)
constexpr int kTileVectors = 4;  // of 32 registers
#else
constexpr int kTileVectors = 2;  // of 16 registers
#endif
constexpr int64_t kPanel = kTileVectors * kLanes;

// kSerialWork counts binary multiply-adds, which are about this much faster than float32 ones.
constexpr int64_t kFloatWork = 16;

// Floats from one panel to the next: a whole number of cache lines and no power of two, at which
// the lines of all panels would share a few sets of the cache.
BIDIFF_INLINE int64_t panel_stride(int64_t cells) { return cells * kPanel + 16; }

// The same of a panel of `depth` values a column, with room for the scales of integers.
template <class Math>
BIDIFF_INLINE int64_t value_panel_stride(int64_t depth) {
  return panel_stride(cells_of<typename Math::Copied>(depth) + (Math::kScaled ? 1 : 0));
}

// Memory to prefetch during a tile's products: `bytes` of each run per cell of depth. A burst of
// more lines than a core can have in flight would stall the products instead.
struct Fetch {
  static constexpr int kRuns = 4;
  const char* runs[kRuns];
  int64_t bytes;
  BIDIFF_INLINE_MEMBER void step() {
    for (const char*& run : runs) {
      __builtin_prefetch(run, 0, 0);
      run += bytes;
    }
  }
};
struct NoFetch {
  BIDIFF_INLINE_MEMBER void step() {}
};

// Rows of sums of a product of kRows rows.
template <class Math>
constexpr int sum_rows(int rows) {
  return (rows + Math::kCellRows - 1) / Math::kCellRows * Math::kCellRows;
}

// As add_products, two rows and two rows of cells at a time.
template <class Math, int kRows, class Prefetch>
BIDIFF_INLINE void add_paired_products(const float* left, int64_t row_step, int64_t depth_step,
                                       const float* right, int64_t cells,
                                       Floats (*sums)[kTileVectors], Prefetch prefetch) {
  constexpr int kPairs = (kRows + 1) / 2;
  for (int64_t depth = 0; depth < cells; depth += 2) {
    Floats rows[kPairs];
    for (int i = 0; i < kPairs; ++i) {
      rows[i] = Math::two_rows(left + 2 * i * row_step, 2 * i + 1 < kRows ? row_step : 0);
    }
    for (int v = 0; v < kTileVectors; ++v) {
      const Floats lower = load(right + v * kLanes), upper = load(right + kPanel + v * kLanes);
      for (int i = 0; i < kPairs; ++i) {
        sums[2 * i][v] = Math::multiply_add(rows[i], lower, sums[2 * i][v]);
        sums[2 * i + 1][v] = Math::multiply_add(rows[i], upper, sums[2 * i + 1][v]);
      }
    }
    prefetch.step();
    prefetch.step();
    left += 2 * depth_step;
    right += 2 * kPanel;
  }
  for (int i = 0; i < kPairs; ++i) {
    for (int v = 0; v < kTileVectors; ++v) Math::split_rows(&sums[2 * i][v], &sums[2 * i + 1][v]);
  }
}

// sums = left * right for kRows rows, where sums are zeros before. Cell (row, depth) of left is at
// left[row * row_step + depth * depth_step]; where two rows of cells are stored together, that is
// so for even depths, and the next cell follows.
template <class Math, int kRows, class Prefetch>
BIDIFF_INLINE void add_products(const float* left, int64_t row_step, int64_t depth_step,
                                const float* right, int64_t cells, Floats (*sums)[kTileVectors],
                                Prefetch prefetch) {
  if constexpr (Math::kCellRows == 2) {
    add_paired_products<Math, kRows>(left, row_step, depth_step, right, cells, sums, prefetch);
  } else {
    for (int64_t depth = 0; depth < cells; ++depth) {
      Floats column[kTileVectors];
      for (int v = 0; v < kTileVectors; ++v) column[v] = load(right + v * kLanes);
      for (int row = 0; row < kRows; ++row) {
        const Floats factor = Math::broadcast(left + row * row_step);
        for (int v = 0; v < kTileVectors; ++v) {
          sums[row][v] = Math::multiply_add(factor, column[v], sums[row][v]);
        }
      }
      prefetch.step();
      left += depth_step;
      right += kPanel;
    }
  }
}

// Rows of the right operand that become cells together. A null row stands for zeros; the first is
// never null.
template <class Math>
struct Unit {
  const float* rows[kUnit<Math>];
  BIDIFF_INLINE_MEMBER bool has(int i) const { return i == 0 || rows[i]; }
};

// Of `left` depths from `from` on, `pitch` floats from one to the next.
template <class Math>
BIDIFF_INLINE Unit<Math> unit_at(const float* from, int64_t pitch, int64_t left) {
  Unit<Math> unit{};
  for (int i = 0; i < kUnit<Math> && i < left; ++i) unit.rows[i] = from + i * pitch;
  return unit;
}

// Writes the cells of `columns` columns of a unit to row `to` of consecutive panels. Columns beyond
// the last are zeros.
template <class Math>
BIDIFF_INLINE void gather_unit(Unit<Math> unit, int64_t columns, float* to, int64_t stride) {
  Floats depths[kUnit<Math>];
  for (; columns >= kPanel; columns -= kPanel, to += stride) {
    for (int v = 0; v < kTileVectors; ++v) {
      for (int i = 0; i < kUnit<Math>; ++i) {
        depths[i] = unit.has(i) ? load(unit.rows[i] + v * kLanes) : Floats{};
      }
      store_cells<Math>(depths, to + v * kLanes, kPanel);
    }
    for (int i = 0; i < kUnit<Math>; ++i) {
      if (unit.has(i)) unit.rows[i] += kPanel;
    }
  }
  if (columns <= 0) return;
  for (int64_t at = 0; at < kPanel; at += kLanes) {
    const int64_t rest = columns - at < 0 ? 0 : columns - at < kLanes ? columns - at : kLanes;
    for (int i = 0; i < kUnit<Math>; ++i) {
      depths[i] = unit.has(i) ? load_part(unit.rows[i] + (rest ? at : 0), rest) : Floats{};
    }
    store_cells<Math>(depths, to + at, kPanel);
  }
}

// Integers need the largest magnitudes of their columns first: a block is copied as floats, and
// each panel turned into cells in place. The scales of its columns follow its floats.
template <class Math>
void scale_panel(float* panel, int64_t depth) {
  for (int v = 0; v < kTileVectors; ++v, panel += kLanes) {
    Floats largest = {};
    for (int64_t c = 0; c < depth; ++c) {
      largest = maximum(largest, magnitude(load(panel + c * kPanel)));
    }
    const Floats factor = to_integers<Math>(largest);
    float* to = panel;
    for (int64_t c = 0; c < depth; c += 2, to += kPanel) {
      const float* from = panel + c * kPanel;
      store(to, Math::cells(load(from) * factor,
                            c + 1 < depth ? load(from + kPanel) * factor : Floats{}));
    }
    store(panel + depth * kPanel, splat(1.0f) / factor);
  }
}

}  // namespace
}  // namespace bidiff
