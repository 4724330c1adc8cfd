// The policy of AVX-512 F, BW, DQ and VL: 16 lanes of 32 bits. For files compiled with those flags
// only; unnamed namespace as in bitslice.h.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "inline.h"

namespace bidiff {
namespace {

struct Zmm {
  using Bits = __m512i;
  using Floats = __m512;
  static constexpr int kLanes = 16;

  BIDIFF_INLINE Bits load(const Bits* from) { return _mm512_load_si512(from); }
  BIDIFF_INLINE void store(Bits* to, Bits value) { _mm512_store_si512(to, value); }
  BIDIFF_INLINE Bits zero() { return _mm512_setzero_si512(); }
  BIDIFF_INLINE Bits broadcast(uint32_t value) {
    return _mm512_set1_epi32(static_cast<int>(value));
  }
  BIDIFF_INLINE Bits either(Bits a, Bits b) { return _mm512_or_si512(a, b); }
  BIDIFF_INLINE Bits both(Bits a, Bits b) { return _mm512_and_si512(a, b); }
  BIDIFF_INLINE Bits complement(Bits a) { return _mm512_ternarylogic_epi32(a, a, a, 0x0f); }
  BIDIFF_INLINE Bits select(Bits mask, Bits a, Bits b) {
    return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
  }
  BIDIFF_INLINE Bits parity(Bits a, Bits b, Bits c) {
    return _mm512_ternarylogic_epi32(a, b, c, 0x96);
  }
  // The truth table of majority(a ^ w0, b ^ w1, c ^ w2), entry a*4 + b*2 + c.
  static constexpr int majority_table(int weights) {
    int table = 0;
    for (int entry = 0; entry < 8; ++entry) {
      const int a = (entry >> 2) ^ weights, b = (entry >> 1) ^ (weights >> 1);
      const int c = entry ^ (weights >> 2);
      table |= ((a & 1) + (b & 1) + (c & 1) >= 2) << entry;
    }
    return table;
  }
  template <int kWeights>
  BIDIFF_INLINE Bits majority(Bits a, Bits b, Bits c) {
    return _mm512_ternarylogic_epi32(a, b, c, majority_table(kWeights));
  }
  // A ternary operation overwrites its first operand. The sum overwrites a; the majority is then
  // taken of (sum ^ b ^ c, b, c) and overwrites b: entry b*4 + sum*2 + c. So nothing is copied.
  BIDIFF_INLINE Bits full_add(Bits a, Bits b, Bits c, Bits* carry) {
    const Bits sum = parity(a, b, c);
    *carry = _mm512_ternarylogic_epi32(b, sum, c, 0xb2);
    return sum;
  }
  BIDIFF_INLINE Bits half_add(Bits a, Bits b, Bits* carry) {
    const Bits sum = _mm512_xor_si512(a, b);
    *carry = _mm512_and_si512(a, b);
    return sum;
  }
  template <int kCount>
  BIDIFF_INLINE Bits shift_left(Bits a) {
    return _mm512_slli_epi32(a, kCount);
  }
  template <int kCount>
  BIDIFF_INLINE Bits shift_right(Bits a) {
    return _mm512_srli_epi32(a, kCount);
  }
  using Shift = __m128i;  // a shift's count; 32 and more yield 0
  BIDIFF_INLINE Shift shift(int count) { return _mm_cvtsi32_si128(count); }
  BIDIFF_INLINE Bits shift_left_by(Bits a, Shift count) { return _mm512_sll_epi32(a, count); }
  BIDIFF_INLINE Bits shift_right_by(Bits a, Shift count) { return _mm512_srl_epi32(a, count); }
  BIDIFF_INLINE Bits load_unaligned(const uint32_t* from) { return _mm512_loadu_si512(from); }
  BIDIFF_INLINE Bits differ(Bits a, Bits b) { return _mm512_xor_si512(a, b); }
  BIDIFF_INLINE Bits add(Bits a, Bits b) { return _mm512_add_epi32(a, b); }
  BIDIFF_INLINE Bits subtract(Bits a, Bits b) { return _mm512_sub_epi32(a, b); }
  BIDIFF_INLINE Bits put(Bits a, int lane, int32_t value) {
    return _mm512_mask_set1_epi32(a, static_cast<__mmask16>(1u << lane), value);
  }
  BIDIFF_INLINE Bits lane_bit(int lane, int bit) {
    return _mm512_maskz_set1_epi32(static_cast<__mmask16>(1u << lane), static_cast<int>(1u << bit));
  }
  // Lane l takes lane l - 1; the first lane takes the last one's previous slot.
  BIDIFF_INLINE Bits from_left(Bits a, Bits not_row_starts) {
    const Bits turned = _mm512_alignr_epi32(a, a, 15);
    const Bits wrapped = _mm512_and_si512(_mm512_slli_epi32(turned, 1), not_row_starts);
    return _mm512_mask_mov_epi32(turned, 1, wrapped);
  }
  BIDIFF_INLINE Bits from_right(Bits a, Bits not_row_ends) {
    const Bits turned = _mm512_alignr_epi32(a, a, 1);
    const Bits wrapped = _mm512_and_si512(_mm512_srli_epi32(turned, 1), not_row_ends);
    return _mm512_mask_mov_epi32(turned, 1 << 15, wrapped);
  }

  BIDIFF_INLINE __mmask16 first_lanes(int count) {
    return static_cast<__mmask16>(0xffffu >> (16 - count));
  }
  // Sets `bit` in the lanes of `bits` whose x + threshold is not negative.
  BIDIFF_INLINE Bits pack_slot(Bits bits, const float* from, Floats threshold, uint32_t bit) {
    const Floats x = _mm512_add_ps(_mm512_loadu_ps(from), threshold);
    const __mmask16 set = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ);
    return _mm512_mask_or_epi32(bits, set, bits, broadcast(bit));
  }
  BIDIFF_INLINE Bits pack_part(Bits bits, const float* from, int count, Floats threshold,
                               uint32_t bit) {
    const __mmask16 lanes = first_lanes(count);
    const Floats x = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, from), threshold);
    const __mmask16 set = _mm512_mask_cmp_ps_mask(lanes, x, _mm512_setzero_ps(), _CMP_GE_OQ);
    return _mm512_mask_or_epi32(bits, set, bits, broadcast(bit));
  }
  BIDIFF_INLINE Floats broadcast_float(float value) { return _mm512_set1_ps(value); }
  BIDIFF_INLINE Floats to_float(Bits a) { return _mm512_cvtepi32_ps(a); }
  BIDIFF_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  BIDIFF_INLINE Floats add_float(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  BIDIFF_INLINE Floats subtract_float(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  BIDIFF_INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  BIDIFF_INLINE Floats magnitude(Floats a) {
    return _mm512_castsi512_ps(both(_mm512_castps_si512(a), broadcast(0x7fffffff)));
  }
  // Sets `bit` in the lanes of `bits` where a >= 0, or a != 0.
  BIDIFF_INLINE Bits mark_positive(Bits bits, Floats a, Bits bit) {
    const __mmask16 set = _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GE_OQ);
    return _mm512_mask_or_epi32(bits, set, bits, bit);
  }
  BIDIFF_INLINE Bits mark_filled(Bits bits, Floats a, Bits bit) {
    const __mmask16 set = _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    return _mm512_mask_or_epi32(bits, set, bits, bit);
  }
  // For byte_counts.h.
  BIDIFF_INLINE Bits ones_of_bytes(Bits a) {
    const Bits table =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const Bits low = _mm512_set1_epi8(15), high = _mm512_and_si512(_mm512_srli_epi32(a, 4), low);
    return _mm512_add_epi8(_mm512_shuffle_epi8(table, _mm512_and_si512(a, low)),
                           _mm512_shuffle_epi8(table, high));
  }
  BIDIFF_INLINE Bits add_bytes(Bits a, Bits b) { return _mm512_add_epi8(a, b); }
  BIDIFF_INLINE Bits sum_bytes(Bits a) {  // of each word
    return _mm512_madd_epi16(_mm512_maddubs_epi16(a, _mm512_set1_epi8(1)), _mm512_set1_epi16(1));
  }
  BIDIFF_INLINE Floats scale_negative(Floats a, Floats slope) {
    return _mm512_mask_mul_ps(a, _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ), slope, a);
  }
  BIDIFF_INLINE Floats load_floats(const float* from, int count) {
    if (count == kLanes) return _mm512_loadu_ps(from);
    return _mm512_maskz_loadu_ps(first_lanes(count), from);
  }
  BIDIFF_INLINE void store_floats(float* to, Floats value, int count) {
    if (count == kLanes) return _mm512_storeu_ps(to, value);
    _mm512_mask_storeu_ps(to, first_lanes(count), value);
  }
  BIDIFF_INLINE void store_integers(int32_t* to, Bits value, int count) {
    _mm512_mask_storeu_epi32(to, first_lanes(count), value);
  }

  // Lanes given by the bits of `lanes`; nothing of the others is read or written.
  BIDIFF_INLINE Floats load_lanes(const float* from, uint32_t lanes) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), from);
  }
  BIDIFF_INLINE void store_lanes(float* to, Floats value, uint32_t lanes) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(lanes), value);
  }
  BIDIFF_INLINE void store_lanes(int32_t* to, Bits value, uint32_t lanes) {
    _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(lanes), value);
  }
  // Forces `a` into a register here, so that sums are not reassociated into trees, which would need
  // more registers than a tile of counters leaves.
  BIDIFF_INLINE void keep(Bits& a) { asm("" : "+v"(a)); }
  // Lane l is table[index[l]], where the table has 16 entries and both are aligned.
  BIDIFF_INLINE Bits lookup(const int32_t* table, const uint32_t* index) {
    return _mm512_permutexvar_epi32(_mm512_load_si512(index), _mm512_load_si512(table));
  }
  // Stores past the caches, to a multiple of 64 bytes; only stream_fence orders it.
  BIDIFF_INLINE void stream(float* to, Floats value) { _mm512_stream_ps(to, value); }
  BIDIFF_INLINE void stream_fence() { _mm_sfence(); }
  BIDIFF_INLINE void prefetch(const void* at) {
    _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
  }
  // Fetches a line in order to write it. Every CPU with AVX-512 has the instruction; the compiler's
  // builtin would need a flag of its own.
  BIDIFF_INLINE void prefetch_write(const void* at) {
    asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(at)));
  }
  // a0 b0 a1 b1 .. of the lower or the upper eight lanes.
  template <bool kUpper>
  BIDIFF_INLINE Floats interleave(Floats a, Floats b) {
    const Bits lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const Bits upper =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a, kUpper ? upper : lower, b);
  }
  // The even (odd) lanes of a in the lower half, those of b in the upper one.
  template <bool kOdd>
  BIDIFF_INLINE Floats every_other(Floats a, Floats b) {
    const Bits even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Bits first = _mm512_set1_epi32(kOdd ? 1 : 0);
    return _mm512_permutex2var_ps(a, _mm512_or_si512(even, first), b);
  }
};

}  // namespace
}  // namespace bidiff
