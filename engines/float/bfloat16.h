// Factors rounded to bfloat16, see factors.h, of the instruction sets that multiply them.
//
// AArch64's BFMMLA multiplies 2 rows by 2 columns of 4 depths. There two rows of cells are stored
// together: of the right operand, vector by vector, the first holds both cells of the lower columns
// and the second those of the upper ones; of the left one, both cells of a row are neighbours.
//
// For the .cpp files of this folder only; unnamed namespace, see maps.h.
#pragma once

#include "vec.h"

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

namespace bidiff {
namespace {

#if defined(__x86_64__)
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
#else
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
#endif

}  // namespace
}  // namespace bidiff
