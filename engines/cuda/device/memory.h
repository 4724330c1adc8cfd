// Maps of float16 or float32: single elements, and aligned runs of 4 and 8.
#pragma once

#include "arguments.h"
#include "language.h"

namespace bidiff::cuda {
namespace {

template <class T>
BIDIFF_DEVICE T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class Element>
BIDIFF_DEVICE Element narrowed(float value) {
  Element element;
  from_float(value, &element);
  return element;
}

union FloatBits {
  unsigned bits;
  float value;
};
BIDIFF_DEVICE float float_of(unsigned bits) {
  FloatBits both;
  both.bits = bits;
  return both.value;
}
BIDIFF_DEVICE unsigned bits_of(float value) {
  FloatBits both;
  both.value = value;
  return both.bits;
}
BIDIFF_DEVICE Half half_of(unsigned bits) { return Half{static_cast<unsigned short>(bits)}; }
BIDIFF_DEVICE unsigned half_pair(float low, float high) {
  return narrowed<Half>(low).bits | static_cast<unsigned>(narrowed<Half>(high).bits) << 16;
}

// 16-byte aligned.
BIDIFF_DEVICE void load_run(const float* from, float (&to)[kRun]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Words4 words = load(reinterpret_cast<const Words4*>(from) + i);
    to[4 * i] = float_of(words.x);
    to[4 * i + 1] = float_of(words.y);
    to[4 * i + 2] = float_of(words.z);
    to[4 * i + 3] = float_of(words.w);
  }
}
BIDIFF_DEVICE void load_run(const Half* from, float (&to)[kRun]) {
  const Words4 words = load(reinterpret_cast<const Words4*>(from));
  const unsigned pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = to_float(half_of(pairs[i]));
    to[2 * i + 1] = to_float(half_of(pairs[i] >> 16));
  }
}

BIDIFF_DEVICE void store_four(float* to, float a, float b, float c, float d) {
  *reinterpret_cast<Words4*>(to) = Words4{bits_of(a), bits_of(b), bits_of(c), bits_of(d)};
}
// 8-byte aligned.
BIDIFF_DEVICE void store_four(Half* to, float a, float b, float c, float d) {
  *reinterpret_cast<Words2*>(to) = Words2{half_pair(a, b), half_pair(c, d)};
}
BIDIFF_DEVICE void store_run(float* to, const float (&from)[kRun]) {
  store_four(to, from[0], from[1], from[2], from[3]);
  store_four(to + 4, from[4], from[5], from[6], from[7]);
}
BIDIFF_DEVICE void store_run(Half* to, const float (&from)[kRun]) {
  *reinterpret_cast<Words4*>(to) = Words4{half_pair(from[0], from[1]), half_pair(from[2], from[3]),
                                          half_pair(from[4], from[5]), half_pair(from[6], from[7])};
}

// A plane of (H, W) elements.
template <class Element>
BIDIFF_DEVICE const Element* plane_of(const ChannelMap& map, int image, int channel, int plane) {
  const int second = channel >= map.split;
  const long long index = static_cast<long long>(image) * map.channels + map.start[second] +
                          map.stride * (channel - second * map.split);
  return at<const Element>(map.base[second]) + index * plane;
}

}  // namespace
}  // namespace bidiff::cuda
