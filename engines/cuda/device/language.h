// The few parts of CUDA that the kernels use, under our own names and without CUDA's headers. nvcc
// and NVRTC compile this file; a C++ compiler compiles tests/emulated_cuda/language.h instead.
#pragma once

#ifdef BIDIFF_EMULATED
#include "../../tests/emulated_cuda/language.h"
#else

#include "layout.h"

#define BIDIFF_DEVICE static __device__ __forceinline__

// A kernel that takes one struct by value, named `arguments` in its body.
#define BIDIFF_KERNEL(name, Arguments, threads, blocks) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const Arguments arguments)

#ifdef __CUDA_ARCH__
#define BIDIFF_ARCHITECTURE (__CUDA_ARCH__ / 10)
#else
#define BIDIFF_ARCHITECTURE 0
#endif

namespace bidiff::cuda {
namespace {

using Words4 = uint4;
using Words2 = uint2;

struct Half {
  unsigned short bits;
};

BIDIFF_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
BIDIFF_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
BIDIFF_DEVICE int block_row() { return static_cast<int>(blockIdx.y); }

BIDIFF_DEVICE unsigned* shared_memory() {
  extern __shared__ __align__(16) unsigned memory[];
  return memory;
}

BIDIFF_DEVICE void synchronize_block() { __syncthreads(); }
BIDIFF_DEVICE float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
BIDIFF_DEVICE float shuffle(float value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }

BIDIFF_DEVICE int popcount(unsigned word) { return __popc(word); }

// One rounding each: the compiler never contracts these into a fused multiply-add.
BIDIFF_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
BIDIFF_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
BIDIFF_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
BIDIFF_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
BIDIFF_DEVICE float square_root(float a) { return __fsqrt_rn(a); }
BIDIFF_DEVICE float clamp(float a, float low, float high) { return fminf(fmaxf(a, low), high); }

// Relative errors of 2^-22 and 2^-23.
BIDIFF_DEVICE float exp2_approximate(float a) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(a));
  return result;
}
BIDIFF_DEVICE float reciprocal_approximate(float a) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(a));
  return result;
}

BIDIFF_DEVICE float to_float(float value) { return value; }
BIDIFF_DEVICE float to_float(Half value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}
BIDIFF_DEVICE void from_float(float value, float* to) { *to = value; }
BIDIFF_DEVICE void from_float(float value, Half* to) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
}

// Reads memory that no thread writes in the same launch.
BIDIFF_DEVICE float load(const float* from) { return __ldg(from); }
BIDIFF_DEVICE int load(const int* from) { return __ldg(from); }
BIDIFF_DEVICE unsigned load(const unsigned* from) { return __ldg(from); }
BIDIFF_DEVICE unsigned short load(const unsigned short* from) { return __ldg(from); }
BIDIFF_DEVICE Words4 load(const Words4* from) { return __ldg(from); }
BIDIFF_DEVICE Half load(const Half* from) {
  return Half{__ldg(reinterpret_cast<const unsigned short*>(from))};
}

// Asynchronous copies from global to shared memory, from sm_80 on. Those issued between two commits
// are one group; wait_copies<n> returns when at most n groups of the calling thread are in flight.
// Older GPUs copy immediately.
#if BIDIFF_ARCHITECTURE >= 80
BIDIFF_DEVICE unsigned shared_address(const void* pointer) {
  unsigned address;
  asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }"
      : "=r"(address)
      : "l"(pointer));
  return address;
}
BIDIFF_DEVICE void copy16(unsigned* to, const unsigned* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
BIDIFF_DEVICE void copy8(unsigned* to, const unsigned* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
BIDIFF_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
BIDIFF_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}
#else
BIDIFF_DEVICE void copy16(unsigned* to, const unsigned* from) {
  *reinterpret_cast<Words4*>(to) = load(reinterpret_cast<const Words4*>(from));
}
BIDIFF_DEVICE void copy8(unsigned* to, const unsigned* from) {
  *reinterpret_cast<Words2*>(to) = __ldg(reinterpret_cast<const Words2*>(from));
}
BIDIFF_DEVICE void commit_copies() {}
template <int kGroups>
BIDIFF_DEVICE void wait_copies() {}
#endif

}  // namespace
}  // namespace bidiff::cuda

#endif
