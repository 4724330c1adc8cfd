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
// it is bfloat16 or float32.
//
// AArch64's BFMMLA multiplies 2 rows by 2 columns of 4 depths. There two rows of cells are stored
// together: of the right operand, vector by vector, the first holds both cells of the lower columns
// and the second those of the upper ones; of the left one, both cells of a row are neighbours.
//
// For the .cpp files of this folder only; unnamed namespace, see maps.h.
#pragma once

#include "maps.h"
#include "vec.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

namespace bidiff {
namespace {

BIDIFF_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
BIDIFF_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
BIDIFF_INLINE int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

BIDIFF_INLINE int64_t round_up(int64_t value, int64_t to) { return quotient_up(value, to) * to; }

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

// A broadcast of a cell that is no float.
BIDIFF_INLINE Floats broadcast_bits(const float* cell) {
  int32_t bits;
  memcpy(&bits, cell, sizeof(bits));
  const Ints all = bits - Ints{};
  Floats value;
  memcpy(&value, &all, sizeof(value));
  return value;
}

#if defined(__AVX512BF16__)
struct Bfloat16 {
  using Copied = Bfloat16;
  static constexpr int kDepth = 2;
  static constexpr int kCellRows = 1;
  static constexpr bool kScaled = false;
  static BIDIFF_INLINE_MEMBER Floats broadcast(const float* cell) { return broadcast_bits(cell); }
  static BIDIFF_INLINE_MEMBER Floats multiply_add(Floats a, Floats b, Floats sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
  static BIDIFF_INLINE_MEMBER Floats sums(Floats sum) { return sum; }
  static BIDIFF_INLINE_MEMBER Floats cells(Floats first, Floats second) {
    const __m512i both = reinterpret_cast<__m512i>(
        _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return reinterpret_cast<Floats>(_mm512_permutexvar_epi16(order, both));
  }
  static BIDIFF_INLINE_MEMBER void row_cells(const float* from, int64_t count, float* to) {
    for (; count > 0; count -= 32, from += 32, to += kLanes) {
      const Floats first = load_part(from, smaller(count, 16));
      const Floats second = count > 16 ? load_part(from + 16, smaller(count - 16, 16)) : Floats{};
      store(to, reinterpret_cast<Floats>(_mm512_cvtne2ps_pbh(second, first)));
    }
  }
};
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
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct Bfloat16 {
  using Copied = Bfloat16;
  static constexpr int kDepth = 2;
  static constexpr int kCellRows = 2;
  static constexpr bool kScaled = false;
  // Both cells of a row, and those of the row `step` floats further.
  static BIDIFF_INLINE_MEMBER Floats two_rows(const float* cells, int64_t step) {
    return reinterpret_cast<Floats>(vcombine_f32(vld1_f32(cells), vld1_f32(cells + step)));
  }
  // Of two rows and two columns: sums (0, 0), (0, 1), (1, 0) and (1, 1).
  static BIDIFF_INLINE_MEMBER Floats multiply_add(Floats rows, Floats columns, Floats sum) {
    return reinterpret_cast<Floats>(vbfmmlaq_f32(reinterpret_cast<float32x4_t>(sum),
                                                 reinterpret_cast<bfloat16x8_t>(rows),
                                                 reinterpret_cast<bfloat16x8_t>(columns)));
  }
  // Sums of two rows, of the lower columns and of the upper ones, become those of each row.
  static BIDIFF_INLINE_MEMBER void split_rows(Floats* first, Floats* second) {
    const float64x2_t lower = reinterpret_cast<float64x2_t>(*first);
    const float64x2_t upper = reinterpret_cast<float64x2_t>(*second);
    *first = reinterpret_cast<Floats>(vzip1q_f64(lower, upper));
    *second = reinterpret_cast<Floats>(vzip2q_f64(lower, upper));
  }
  static BIDIFF_INLINE_MEMBER Floats sums(Floats sum) { return sum; }
  static BIDIFF_INLINE_MEMBER uint16x8_t rounded(Floats low) {  // in the lower half
    return vreinterpretq_u16_bf16(vcvtq_low_bf16_f32(reinterpret_cast<float32x4_t>(low)));
  }
  static BIDIFF_INLINE_MEMBER Floats cells(Floats first, Floats second) {
    return reinterpret_cast<Floats>(vzip1q_u16(rounded(first), rounded(second)));
  }
  static BIDIFF_INLINE_MEMBER Floats lower_columns(Floats first, Floats second) {
    return reinterpret_cast<Floats>(
        vzip1q_f32(reinterpret_cast<float32x4_t>(first), reinterpret_cast<float32x4_t>(second)));
  }
  static BIDIFF_INLINE_MEMBER Floats upper_columns(Floats first, Floats second) {
    return reinterpret_cast<Floats>(
        vzip2q_f32(reinterpret_cast<float32x4_t>(first), reinterpret_cast<float32x4_t>(second)));
  }
  static BIDIFF_INLINE_MEMBER void row_cells(const float* from, int64_t count, float* to) {
    for (; count > 0; count -= 2 * kLanes, from += 2 * kLanes, to += kLanes) {
      const Floats first = load_part(from, smaller(count, kLanes));
      const Floats second =
          count > kLanes ? load_part(from + kLanes, smaller(count - kLanes, kLanes)) : Floats{};
      store(to, reinterpret_cast<Floats>(
                    vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(reinterpret_cast<float32x4_t>(first)),
                                        reinterpret_cast<float32x4_t>(second))));
    }
  }
};
using Rounded = Bfloat16;
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
