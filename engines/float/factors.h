// The factors of full-precision products and how they are multiplied: as float32, or rounded to
// fewer bits where Precision::kBfloat16 allows it.
//
// Factors are read in cells of 32 bits: one float, or two rounded ones of consecutive depth (input
// channels). Sums are float32, or 32-bit integers where factors are; both are held as Floats.
//
// Int16 factors are integers of 14 bits, each the nearest to its float divided by a scale: that of
// the right operand's column, so that the column's largest magnitude is kLargest, and that of the
// left operand's row. Rows are scaled so that no sum can overflow, whatever the columns hold. They
// round 16 times less than bfloat16, and of AVX2's instructions the one for pairs of them does
// twice the multiplications of the one for floats. NEON's does as many as that for floats, so there
// it is bfloat16 (bfloat16.h) or float32.
//
// For the .cpp files of this folder only; unnamed namespace, see maps.h.
#pragma once

#include "maps.h"
#include "vec.h"

#if defined(BIDIFF_BFLOAT16)
#include "bfloat16.h"
#elif defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bidiff {
namespace {

// Scales of integers: of a tile's rows and of its columns; null for floats.
struct Scales {
  const float *rows, *columns;
};

struct Float32 {
  using Copied = Float32;
  static constexpr int kDepth = 1;     // of one cell
  static constexpr int kCellRows = 1;  // that are stored together
  static constexpr bool kScaled = false;
  static BIDIFF_INLINE_MEMBER Floats broadcast(const float* cell) { return splat(*cell); }
  static BIDIFF_INLINE_MEMBER Floats multiply_add(Floats a, Floats b, Floats sum) {
    return a * b + sum;
  }
  static BIDIFF_INLINE_MEMBER Floats sums(Floats sum) { return sum; }
  static BIDIFF_INLINE_MEMBER Floats cells(Floats first, Floats) { return first; }
  // Cells along a row of `count` values; up to one more vector of cells is written.
  static BIDIFF_INLINE_MEMBER void row_cells(const float* from, int64_t count, float* to) {
    memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  }
};

#if defined(BIDIFF_BFLOAT16)
using Rounded = Bfloat16;
constexpr bool kRounds = true;
#elif (defined(__AVX512BW__) && BIDIFF_LANES == 16) || (defined(__AVX2__) && BIDIFF_LANES == 8)
// The instructions of a register of integers, as functions of Floats that hold one.
#if BIDIFF_LANES == 16
BIDIFF_INLINE __m512i register_of(Floats value) { return _mm512_castps_si512(value); }
BIDIFF_INLINE Floats floats_of(__m512i value) { return _mm512_castsi512_ps(value); }
BIDIFF_INLINE Floats rounded(Floats value) { return floats_of(_mm512_cvtps_epi32(value)); }
BIDIFF_INLINE Floats multiplied_pairs(Floats a, Floats b) {
  return floats_of(_mm512_madd_epi16(register_of(a), register_of(b)));
}
BIDIFF_INLINE Floats joined(Floats low, Floats high) {
  return floats_of(_mm512_mask_blend_epi16(0xaaaaaaaa, register_of(low),
                                           _mm512_slli_epi32(register_of(high), 16)));
}
BIDIFF_INLINE Floats consecutive(Floats first, Floats second) {
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  const __m512i both = _mm512_packs_epi32(register_of(first), register_of(second));
  return floats_of(_mm512_permutexvar_epi64(order, both));
}
#define BIDIFF_IN_REGISTER "v"
#else
BIDIFF_INLINE __m256i register_of(Floats value) { return _mm256_castps_si256(value); }
BIDIFF_INLINE Floats floats_of(__m256i value) { return _mm256_castsi256_ps(value); }
BIDIFF_INLINE Floats rounded(Floats value) { return floats_of(_mm256_cvtps_epi32(value)); }
BIDIFF_INLINE Floats multiplied_pairs(Floats a, Floats b) {
  return floats_of(_mm256_madd_epi16(register_of(a), register_of(b)));
}
BIDIFF_INLINE Floats joined(Floats low, Floats high) {
  return floats_of(
      _mm256_blend_epi16(register_of(low), _mm256_slli_epi32(register_of(high), 16), 0xaa));
}
BIDIFF_INLINE Floats consecutive(Floats first, Floats second) {
  const __m256i both = _mm256_packs_epi32(register_of(first), register_of(second));
  return floats_of(_mm256_permute4x64_epi64(both, 0xd8));
}
#define BIDIFF_IN_REGISTER "x"
#endif

struct Int16 {
  using Copied = Float32;  // before the scales are known
  static constexpr int kDepth = 2;
  static constexpr int kCellRows = 1;
  static constexpr bool kScaled = true;
  static constexpr float kLargest = 8191.0f;
  // Of a row's magnitudes, where columns have at most `largest`; rounding adds up to a half to
  // each.
  static BIDIFF_INLINE_MEMBER float largest_sum(float largest, int64_t depth) {
    return 2147483520.0f / largest - 0.5f * static_cast<float>(depth) - 1.0f;
  }
  static BIDIFF_INLINE_MEMBER Floats broadcast(const float* cell) { return broadcast_bits(cell); }
  static BIDIFF_INLINE_MEMBER Floats multiply_add(Floats a, Floats b, Floats sum) {
    const Floats products = multiplied_pairs(a, b);
    // In assembly, because gcc gives the result another register and copies it back.
    asm("vpaddd %1, %0, %0" : "+" BIDIFF_IN_REGISTER(sum) : BIDIFF_IN_REGISTER(products));
    return sum;
  }
  static BIDIFF_INLINE_MEMBER Floats sums(Floats sum) {
    Ints integers;
    memcpy(&integers, &sum, sizeof(integers));
    return __builtin_convertvector(integers, Floats);
  }
  // Of values that are divided by their scale.
  static BIDIFF_INLINE_MEMBER Floats cells(Floats first, Floats second) {
    return joined(rounded(first), rounded(second));
  }
  // Consecutive values of a row times `factor`; up to a vector of cells more is written, of zeros.
  static BIDIFF_INLINE_MEMBER void scaled_row(const float* from, int64_t count, Floats factor,
                                              float* to) {
    for (; count > 0; count -= 2 * kLanes, from += 2 * kLanes, to += kLanes) {
      const Floats first = load_part(from, smaller(count, kLanes));
      const Floats second =
          count > kLanes ? load_part(from + kLanes, smaller(count - kLanes, kLanes)) : Floats{};
      store(to, consecutive(rounded(first * factor), rounded(second * factor)));
    }
  }
};
#undef BIDIFF_IN_REGISTER
using Rounded = Int16;
constexpr bool kRounds = true;
#else
using Rounded = Float32;
constexpr bool kRounds = false;
#endif

// Depths that are stored together, in kCellRows rows of cells.
template <class Math>
constexpr int kUnit = Math::kDepth * Math::kCellRows;

// Rows of cells of `depth` values.
template <class Math>
BIDIFF_INLINE int64_t cells_of(int64_t depth) {
  return quotient_up(depth, kUnit<Math>) * Math::kCellRows;
}

// Stores the cells of kUnit vectors of the right operand, `pitch` floats from row to row.
template <class Math>
BIDIFF_INLINE void store_cells(const Floats* depths, float* to, int64_t pitch) {
  const Floats first = Math::cells(depths[0], depths[Math::kDepth - 1]);
  if constexpr (Math::kCellRows == 1) {
    store(to, first);
  } else {
    const Floats second = Math::cells(depths[Math::kDepth], depths[Math::kDepth + 1]);
    store(to, Math::lower_columns(first, second));
    store(to + pitch, Math::upper_columns(first, second));
  }
}

// Where the left operand has a cell of a row, of panels of `rows` rows.
template <class Math>
BIDIFF_INLINE int64_t left_place(int64_t cell, int64_t row, int64_t rows) {
  return cell / Math::kCellRows * Math::kCellRows * rows + row * Math::kCellRows +
         cell % Math::kCellRows;
}

// Magnitudes of a left operand's row, and its scale: 0 if all are zeros.
struct RowScale {
  double largest = 0, sum = 0;
  BIDIFF_INLINE_MEMBER void add(double value) {
    const double magnitude = value < 0 ? -value : value;
    largest = magnitude > largest ? magnitude : largest;
    sum += magnitude;
  }
  template <class Math>
  BIDIFF_INLINE_MEMBER double of(int64_t depth) const {
    const double by_sum = sum / static_cast<double>(Math::largest_sum(Math::kLargest, depth));
    const double by_largest = largest / static_cast<double>(Math::kLargest);
    return by_sum > by_largest ? by_sum : by_largest;
  }
};

// Stores the factor `part` (0 or 1) of a cell.
template <class Math>
BIDIFF_INLINE void put_factor(float* cell, int64_t part, float value) {
  const Floats both = Math::cells(splat(value), splat(value));
  if (Math::kDepth == 1) {
    memcpy(cell, &both, sizeof(float));
  } else {
    memcpy(reinterpret_cast<char*>(cell) + 2 * part, &both, 2);
  }
}

// Of columns whose largest magnitudes are `largest`: what their values are multiplied by.
template <class Math>
BIDIFF_INLINE Floats to_integers(Floats largest) {
  return splat(Math::kLargest) / maximum(largest, splat(1e-30f));
}

}  // namespace
}  // namespace bidiff
