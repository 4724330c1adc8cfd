// float16 as bits, rounded to nearest even as cvt.rn.f16.f32 does.
#pragma once

#include <cstdint>
#include <cstring>

namespace bidiff::cuda::emulated {

inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | fraction << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {
    const float tiny = static_cast<float>(fraction) * 0x1p-24f;
    std::memcpy(&bits, &tiny, 4);
    bits |= sign;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return 0x7fff;          // NaN, the canonical one
  if (size >= 0x477ff000u) return sign | 0x7c00;  // 65520 and more round to infinity
  const int exponent = static_cast<int>(size >> 23) - 127;
  if (exponent < -25) return sign;
  // Drops 13 bits of the fraction, or more for a subnormal.
  const int drop = exponent < -14 ? -1 - exponent : 13;
  const uint32_t fraction = (size & 0x7fffffu) | 0x800000u;
  uint32_t kept = fraction >> drop;
  const uint32_t rest = fraction & ((1u << drop) - 1), tie = 1u << (drop - 1);
  if (rest > tie || (rest == tie && kept & 1)) ++kept;
  // A carry out of the fraction goes into the exponent, as it should.
  if (exponent < -14) return static_cast<uint16_t>(sign | kept);
  return static_cast<uint16_t>(sign | (kept + (static_cast<uint32_t>(exponent + 14) << 10)));
}

}  // namespace bidiff::cuda::emulated
