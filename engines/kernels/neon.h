// The policy of AArch64's vector instructions: 4 lanes of 32 bits, which every such CPU has. Only
// what popcount_words.h and scaled_run.h need; unnamed namespace as in bitslice.h.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "inline.h"

namespace bidiff {
namespace {

struct Neon {
  using Bits = uint32x4_t;
  using Floats = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr uint32_t kAllLanes = 15;

  BIDIFF_INLINE Bits load(const Bits* from) { return *from; }
  BIDIFF_INLINE void store(Bits* to, Bits value) { *to = value; }
  BIDIFF_INLINE Bits zero() { return vdupq_n_u32(0); }
  BIDIFF_INLINE Bits broadcast(uint32_t value) { return vdupq_n_u32(value); }
  BIDIFF_INLINE Bits load_unaligned(const uint32_t* from) { return vld1q_u32(from); }
  BIDIFF_INLINE Bits differ(Bits a, Bits b) { return veorq_u32(a, b); }
  BIDIFF_INLINE Bits add(Bits a, Bits b) { return vaddq_u32(a, b); }
  BIDIFF_INLINE Bits subtract(Bits a, Bits b) { return vsubq_u32(a, b); }
  BIDIFF_INLINE Bits both(Bits a, Bits b) { return vandq_u32(a, b); }
  template <int kCount>
  BIDIFF_INLINE Bits shift_left(Bits a) {
    return vshlq_n_u32(a, kCount);
  }

  // All ones in the first `count` lanes.
  BIDIFF_INLINE Bits first_lanes(int count) {
    const Bits numbers =
        vcombine_u32(vcreate_u32(uint64_t{1} << 32), vcreate_u32(uint64_t{3} << 32 | 2));
    return vcltq_u32(numbers, vdupq_n_u32(static_cast<uint32_t>(count)));
  }
  // Sets `bit` in the lanes of `bits` whose x + threshold is not negative.
  BIDIFF_INLINE Bits pack_slot(Bits bits, const float* from, Floats threshold, uint32_t bit) {
    return pack_lanes(bits, vld1q_f32(from), threshold, broadcast(bit));
  }
  BIDIFF_INLINE Bits pack_part(Bits bits, const float* from, int count, Floats threshold,
                               uint32_t bit) {
    return pack_lanes(bits, load_floats(from, count), threshold,
                      vandq_u32(first_lanes(count), broadcast(bit)));
  }
  BIDIFF_INLINE Bits pack_lanes(Bits bits, Floats x, Floats threshold, Bits lanes) {
    return vorrq_u32(bits, vandq_u32(vcgezq_f32(vaddq_f32(x, threshold)), lanes));
  }

  // Sets `bit` in the lanes of `bits` where a >= 0, or a != 0.
  BIDIFF_INLINE Bits mark_positive(Bits bits, Floats a, Bits bit) {
    return vorrq_u32(bits, vandq_u32(vcgezq_f32(a), bit));
  }
  BIDIFF_INLINE Bits mark_filled(Bits bits, Floats a, Bits bit) {
    return vorrq_u32(bits, vbicq_u32(bit, vceqzq_f32(a)));
  }

  BIDIFF_INLINE Floats broadcast_float(float value) { return vdupq_n_f32(value); }
  BIDIFF_INLINE Floats to_float(Bits a) { return vcvtq_f32_s32(vreinterpretq_s32_u32(a)); }
  BIDIFF_INLINE Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  BIDIFF_INLINE Floats add_float(Floats a, Floats b) { return vaddq_f32(a, b); }
  BIDIFF_INLINE Floats subtract_float(Floats a, Floats b) { return vsubq_f32(a, b); }
  BIDIFF_INLINE Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
  BIDIFF_INLINE Floats magnitude(Floats a) { return vabsq_f32(a); }
  BIDIFF_INLINE Floats scale_negative(Floats a, Floats slope) {
    return vbslq_f32(vcltzq_f32(a), vmulq_f32(slope, a), a);
  }
  BIDIFF_INLINE Floats load_floats(const float* from, int count) {
    return load_lanes(from, (1u << count) - 1);
  }
  BIDIFF_INLINE void store_floats(float* to, Floats value, int count) {
    store_lanes(to, value, (1u << count) - 1);
  }
  BIDIFF_INLINE void store_integers(int32_t* to, Bits value, int count) {
    store_lanes(to, value, (1u << count) - 1);
  }

  // Lanes given by the bits of `lanes`; nothing of the others is read or written.
  BIDIFF_INLINE Floats load_lanes(const float* from, uint32_t lanes) {
    if (lanes == kAllLanes) return vld1q_f32(from);
    Floats value = vdupq_n_f32(0.0f);
    if (lanes & 1) value = vld1q_lane_f32(from, value, 0);
    if (lanes & 2) value = vld1q_lane_f32(from + 1, value, 1);
    if (lanes & 4) value = vld1q_lane_f32(from + 2, value, 2);
    if (lanes & 8) value = vld1q_lane_f32(from + 3, value, 3);
    return value;
  }
  BIDIFF_INLINE void store_lanes(float* to, Floats value, uint32_t lanes) {
    if (lanes == kAllLanes) return vst1q_f32(to, value);
    if (lanes & 1) vst1q_lane_f32(to, value, 0);
    if (lanes & 2) vst1q_lane_f32(to + 1, value, 1);
    if (lanes & 4) vst1q_lane_f32(to + 2, value, 2);
    if (lanes & 8) vst1q_lane_f32(to + 3, value, 3);
  }
  BIDIFF_INLINE void store_lanes(int32_t* to, Bits bits, uint32_t lanes) {
    const int32x4_t value = vreinterpretq_s32_u32(bits);
    if (lanes == kAllLanes) return vst1q_s32(to, value);
    if (lanes & 1) vst1q_lane_s32(to, value, 0);
    if (lanes & 2) vst1q_lane_s32(to + 1, value, 1);
    if (lanes & 4) vst1q_lane_s32(to + 2, value, 2);
    if (lanes & 8) vst1q_lane_s32(to + 3, value, 3);
  }
  // For policies whose counts would be reassociated otherwise; here a count adds in place.
  BIDIFF_INLINE void keep(Bits&) {}
  // Lane l is table[index[l]], where the table has 16 entries.
  BIDIFF_INLINE Bits lookup(const int32_t* table, const uint32_t* index) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(table);
    const uint8x16x4_t entries = {
        {vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
    const Bits first = vmulq_n_u32(vld1q_u32(index), 0x04040404);
    const Bits place = vaddq_u32(first, vdupq_n_u32(0x03020100));
    return vreinterpretq_u32_u8(vqtbl4q_u8(entries, vreinterpretq_u8_u32(place)));
  }
  // Plain stores: CPUs detect by themselves that whole lines are written.
  BIDIFF_INLINE void stream(float* to, Floats value) { vst1q_f32(to, value); }
  BIDIFF_INLINE void stream_fence() {}
  BIDIFF_INLINE void prefetch(const void* at) { __builtin_prefetch(at); }
  BIDIFF_INLINE void prefetch_write(const void* at) { __builtin_prefetch(at, 1); }
  // a0 b0 a1 b1 of the lower or the upper two lanes.
  template <bool kUpper>
  BIDIFF_INLINE Floats interleave(Floats a, Floats b) {
    return kUpper ? vzip2q_f32(a, b) : vzip1q_f32(a, b);
  }
  // The even (odd) lanes of a in the lower half, those of b in the upper one.
  template <bool kOdd>
  BIDIFF_INLINE Floats every_other(Floats a, Floats b) {
    return kOdd ? vuzp2q_f32(a, b) : vuzp1q_f32(a, b);
  }
};

}  // namespace
}  // namespace bidiff
