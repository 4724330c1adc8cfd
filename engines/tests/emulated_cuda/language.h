// device/language.h for a C++ compiler: the device source includes this file if BIDIFF_EMULATED is
// defined; its value is the architecture to emulate.
#pragma once

#include <cmath>
#include <cstring>

#include "../../cuda/device/layout.h"
#include "block.h"
#include "half.h"
#include "kernel_table.h"

#define BIDIFF_ARCHITECTURE BIDIFF_EMULATED
#define BIDIFF_DEVICE [[maybe_unused]] static inline

#define BIDIFF_KERNEL(name, Arguments, threads, blocks)                                \
  static void name##_thread(const Arguments& arguments);                               \
  static const bidiff::cuda::emulated::Registration name##_registration(               \
      BIDIFF_EMULATED, {#name, sizeof(Arguments), threads, [](const void* arguments) { \
                          name##_thread(*static_cast<const Arguments*>(arguments));    \
                        }});                                                           \
  static void name##_thread(const Arguments& arguments)

namespace bidiff::cuda {
namespace {

using emulated::Block;

struct alignas(16) Words4 {
  unsigned x, y, z, w;
};
struct alignas(8) Words2 {
  unsigned x, y;
};
struct Half {
  unsigned short bits;
};

BIDIFF_DEVICE int thread_index() { return static_cast<int>(Block::current().thread().index); }
BIDIFF_DEVICE int block_index() { return static_cast<int>(Block::current().index[0]); }
BIDIFF_DEVICE int block_row() { return static_cast<int>(Block::current().index[1]); }
BIDIFF_DEVICE unsigned* shared_memory() {
  return reinterpret_cast<unsigned*>(Block::current().shared());
}
BIDIFF_DEVICE void synchronize_block() { Block::current().synchronize(); }

struct Shuffle {
  float value, result;
  int lane;
};
BIDIFF_DEVICE void shuffle_warp(void* const* operands) {
  for (unsigned lane = 0; lane < emulated::kWarp; ++lane) {
    Shuffle& own = *static_cast<Shuffle*>(operands[lane]);
    own.result = static_cast<const Shuffle*>(operands[own.lane & 31])->value;
  }
}
BIDIFF_DEVICE float shuffle(float value, int lane) {
  Shuffle operand{value, 0, lane};
  Block::current().warp(shuffle_warp, &operand);
  return operand.result;
}
BIDIFF_DEVICE float shuffle_xor(float value, int mask) {
  return shuffle(value, (thread_index() % 32) ^ mask);
}

// A compiler that may not use the processor's instruction calls a function.
BIDIFF_DEVICE int popcount(unsigned word) {
  word -= word >> 1 & 0x55555555u;
  word = (word & 0x33333333u) + (word >> 2 & 0x33333333u);
  return static_cast<int>(((word + (word >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
}
// Compiled with -ffp-contract=off: one rounding each.
BIDIFF_DEVICE float multiply(float a, float b) { return a * b; }
BIDIFF_DEVICE float add(float a, float b) { return a + b; }
BIDIFF_DEVICE float fused(float a, float b, float c) { return std::fma(a, b, c); }
BIDIFF_DEVICE float divide(float a, float b) { return a / b; }
BIDIFF_DEVICE float square_root(float a) { return std::sqrt(a); }
BIDIFF_DEVICE float clamp(float a, float low, float high) {
  return std::fmin(std::fmax(a, low), high);
}
// As inexact as a GPU may be, so that no test relies on more.
BIDIFF_DEVICE float exp2_approximate(float a) {
  return static_cast<float>(std::exp2(static_cast<double>(a)) * (1 + 0x1p-22));
}
BIDIFF_DEVICE float reciprocal_approximate(float a) {
  return static_cast<float>(1 / static_cast<double>(a) * (1 - 0x1p-23));
}

BIDIFF_DEVICE float to_float(float value) { return value; }
BIDIFF_DEVICE float to_float(Half value) { return emulated::half_to_float(value.bits); }
BIDIFF_DEVICE void from_float(float value, float* to) { *to = value; }
BIDIFF_DEVICE void from_float(float value, Half* to) { to->bits = emulated::float_to_half(value); }

BIDIFF_DEVICE void require_aligned(const void* pointer, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes) {
    Block::current().fail("a vector was read or copied at an address that is not aligned to it");
  }
}
template <class T>
BIDIFF_DEVICE T load(const T* from) {
  require_aligned(from, sizeof(T));
  T value;
  std::memcpy(static_cast<void*>(&value), static_cast<const void*>(from), sizeof(T));
  return value;
}

#if BIDIFF_EMULATED >= 80
// A copy is carried out when it is waited for, as late as a GPU may: code that forgets to wait
// reads garbage. Or, on request, immediately, as early as a GPU may: code that still reads what it
// replaces fails.
BIDIFF_DEVICE void start_copy(void* to, const void* from, size_t bytes) {
  require_aligned(to, bytes);
  require_aligned(from, bytes);
  emulated::Thread& thread = Block::current().thread();
  if (Block::current().early_copies) {
    std::memcpy(to, from, bytes);
  } else {
    thread.copies.push_back({to, from, bytes, thread.groups});
  }
}
BIDIFF_DEVICE void commit_copies() { ++Block::current().thread().groups; }
template <int kGroups>
BIDIFF_DEVICE void wait_copies() {
  emulated::Thread& thread = Block::current().thread();
  size_t left = 0;
  for (const emulated::Thread::Copy& copy : thread.copies) {
    if (copy.group + kGroups < thread.groups) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      thread.copies[left++] = copy;
    }
  }
  thread.copies.resize(left);
}
#else
BIDIFF_DEVICE void start_copy(void* to, const void* from, size_t bytes) {
  require_aligned(to, bytes);
  require_aligned(from, bytes);
  std::memcpy(to, from, bytes);
}
BIDIFF_DEVICE void commit_copies() {}
template <int kGroups>
BIDIFF_DEVICE void wait_copies() {}
#endif
BIDIFF_DEVICE void copy16(unsigned* to, const unsigned* from) { start_copy(to, from, 16); }
BIDIFF_DEVICE void copy8(unsigned* to, const unsigned* from) { start_copy(to, from, 8); }

}  // namespace
}  // namespace bidiff::cuda
