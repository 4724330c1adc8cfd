// AVX2: 256 pixels a register; without ternary operations a full adder takes five.
#include <immintrin.h>

#include "bitslice_run.h"
#include "byte_counts.h"
#include "inline.h"
#include "scaled_run.h"

namespace bidiff {
namespace {

struct Ymm {
  using Bits = __m256i;
  using Floats = __m256;
  static constexpr int kLanes = 8;

  BIDIFF_INLINE Bits load(const Bits* from) { return _mm256_load_si256(from); }
  BIDIFF_INLINE void store(Bits* to, Bits value) { _mm256_store_si256(to, value); }
  BIDIFF_INLINE Bits zero() { return _mm256_setzero_si256(); }
  BIDIFF_INLINE Bits broadcast(uint32_t value) {
    return _mm256_set1_epi32(static_cast<int>(value));
  }
  BIDIFF_INLINE Bits either(Bits a, Bits b) { return _mm256_or_si256(a, b); }
  BIDIFF_INLINE Bits both(Bits a, Bits b) { return _mm256_and_si256(a, b); }
  BIDIFF_INLINE Bits differ(Bits a, Bits b) { return _mm256_xor_si256(a, b); }
  BIDIFF_INLINE Bits complement(Bits a) { return differ(a, _mm256_set1_epi32(-1)); }
  BIDIFF_INLINE Bits select(Bits mask, Bits a, Bits b) {
    return either(both(mask, a), _mm256_andnot_si256(mask, b));
  }
  BIDIFF_INLINE Bits parity(Bits a, Bits b, Bits c) { return differ(differ(a, b), c); }
  // majority(a ^ w0, b ^ w1, c ^ w2)
  template <int kWeights>
  BIDIFF_INLINE Bits majority(Bits a, Bits b, Bits c) {
    if (kWeights & 1) a = complement(a);
    if (kWeights & 2) b = complement(b);
    if (kWeights & 4) c = complement(c);
    return either(both(a, b), both(c, either(a, b)));
  }
  // `a` is the sum so far: one operation after it is known, so chains of additions are short.
  BIDIFF_INLINE Bits full_add(Bits a, Bits b, Bits c, Bits* carry) {
    const Bits half = differ(b, c);
    *carry = either(both(b, c), both(half, a));
    return differ(half, a);
  }
  BIDIFF_INLINE Bits half_add(Bits a, Bits b, Bits* carry) {
    const Bits sum = differ(a, b);
    *carry = both(a, b);
    return sum;
  }
  template <int kCount>
  BIDIFF_INLINE Bits shift_left(Bits a) {
    return _mm256_slli_epi32(a, kCount);
  }
  template <int kCount>
  BIDIFF_INLINE Bits shift_right(Bits a) {
    return _mm256_srli_epi32(a, kCount);
  }
  using Shift = __m128i;  // a shift's count; 32 and more yield 0
  BIDIFF_INLINE Shift shift(int count) { return _mm_cvtsi32_si128(count); }
  BIDIFF_INLINE Bits shift_left_by(Bits a, Shift count) { return _mm256_sll_epi32(a, count); }
  BIDIFF_INLINE Bits shift_right_by(Bits a, Shift count) { return _mm256_srl_epi32(a, count); }
  BIDIFF_INLINE Bits subtract(Bits a, Bits b) { return _mm256_sub_epi32(a, b); }
  BIDIFF_INLINE Bits lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  BIDIFF_INLINE Bits lane(int number) {
    return _mm256_cmpeq_epi32(lane_numbers(), _mm256_set1_epi32(number));
  }
  BIDIFF_INLINE Bits put(Bits a, int number, int32_t value) {
    return _mm256_blendv_epi8(a, _mm256_set1_epi32(value), lane(number));
  }
  BIDIFF_INLINE Bits lane_bit(int number, int bit) {
    return both(lane(number), broadcast(1u << bit));
  }
  // Lane l takes lane l - 1; the first lane takes the last one's previous slot.
  BIDIFF_INLINE Bits from_left(Bits a, Bits not_row_starts) {
    const Bits turned = _mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6));
    return _mm256_blend_epi32(turned, both(_mm256_slli_epi32(turned, 1), not_row_starts), 0x01);
  }
  BIDIFF_INLINE Bits from_right(Bits a, Bits not_row_ends) {
    const Bits turned = _mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0));
    return _mm256_blend_epi32(turned, both(_mm256_srli_epi32(turned, 1), not_row_ends), 0x80);
  }

  BIDIFF_INLINE Bits first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane_numbers());
  }
  // Sets `bit` in the lanes of `bits` whose x + threshold is not negative.
  BIDIFF_INLINE Bits pack_slot(Bits bits, const float* from, Floats threshold, uint32_t bit) {
    return pack_lanes(bits, _mm256_loadu_ps(from), threshold, broadcast(bit));
  }
  BIDIFF_INLINE Bits pack_part(Bits bits, const float* from, int count, Floats threshold,
                               uint32_t bit) {
    const Bits lanes = first_lanes(count);
    return pack_lanes(bits, _mm256_maskload_ps(from, lanes), threshold,
                      both(lanes, broadcast(bit)));
  }
  BIDIFF_INLINE Bits pack_lanes(Bits bits, Floats x, Floats threshold, Bits lanes) {
    const Floats set = _mm256_cmp_ps(_mm256_add_ps(x, threshold), _mm256_setzero_ps(), _CMP_GE_OQ);
    return either(bits, both(_mm256_castps_si256(set), lanes));
  }
  BIDIFF_INLINE Floats broadcast_float(float value) { return _mm256_set1_ps(value); }
  BIDIFF_INLINE Floats to_float(Bits a) { return _mm256_cvtepi32_ps(a); }
  BIDIFF_INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  BIDIFF_INLINE Floats add_float(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  BIDIFF_INLINE Floats subtract_float(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  BIDIFF_INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  BIDIFF_INLINE Floats magnitude(Floats a) {
    return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
  }
  // Sets `bit` in the lanes of `bits` where a >= 0, or a != 0.
  BIDIFF_INLINE Bits mark_positive(Bits bits, Floats a, Bits bit) {
    const Floats set = _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GE_OQ);
    return either(bits, both(_mm256_castps_si256(set), bit));
  }
  BIDIFF_INLINE Bits mark_filled(Bits bits, Floats a, Bits bit) {
    const Floats set = _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ);
    return either(bits, both(_mm256_castps_si256(set), bit));
  }
  BIDIFF_INLINE Bits load_unaligned(const uint32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  BIDIFF_INLINE Bits add(Bits a, Bits b) { return _mm256_add_epi32(a, b); }
  // For byte_counts.h.
  BIDIFF_INLINE Bits ones_of_bytes(Bits a) {
    const Bits table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const Bits low = _mm256_set1_epi8(15), high = both(_mm256_srli_epi32(a, 4), low);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, both(a, low)),
                           _mm256_shuffle_epi8(table, high));
  }
  BIDIFF_INLINE Bits add_bytes(Bits a, Bits b) { return _mm256_add_epi8(a, b); }
  BIDIFF_INLINE Bits sum_bytes(Bits a) {  // of each word
    return _mm256_madd_epi16(_mm256_maddubs_epi16(a, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
  }
  BIDIFF_INLINE Floats scale_negative(Floats a, Floats slope) {
    const Floats negative = _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_LT_OQ);
    return _mm256_blendv_ps(a, _mm256_mul_ps(slope, a), negative);
  }
  BIDIFF_INLINE Floats load_floats(const float* from, int count) {
    if (count == kLanes) return _mm256_loadu_ps(from);
    return _mm256_maskload_ps(from, first_lanes(count));
  }
  BIDIFF_INLINE void store_floats(float* to, Floats value, int count) {
    if (count == kLanes) {
      _mm256_storeu_ps(to, value);
    } else {
      _mm256_maskstore_ps(to, first_lanes(count), value);
    }
  }
  // Stores past the caches, to a multiple of 32 bytes; only stream_fence orders it.
  BIDIFF_INLINE void stream(float* to, Floats value) { _mm256_stream_ps(to, value); }
  BIDIFF_INLINE void stream_fence() { _mm_sfence(); }
  BIDIFF_INLINE void prefetch(const void* at) {
    _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0);
  }
  BIDIFF_INLINE void store_integers(int32_t* to, Bits value, int count) {
    _mm256_maskstore_epi32(to, first_lanes(count), value);
  }
};

BIDIFF_SCALED_KERNEL("avx2", Ymm, CountBytes<Ymm>);

}  // namespace

extern const Kernel kAvx2 = {
    "avx2", bitslice_packed_bytes, bitslice_pack, bitslice_run<Ymm>, kBitsliceFused, &kScaled};

}  // namespace bidiff
