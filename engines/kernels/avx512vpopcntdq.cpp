// AVX-512 F, BW, DQ, VL and VPOPCNTDQ: one instruction counts the ones of 16 words.
#include "popcount_words.h"
#include "scaled_run.h"
#include "zmm.h"

namespace bidiff {
namespace {

struct CountInstruction {
  static constexpr int kMaxAdditions = 0;
  BIDIFF_INLINE Zmm::Bits add(Zmm::Bits counts, Zmm::Bits a) {
    return Zmm::add(counts, _mm512_popcnt_epi32(a));
  }
  BIDIFF_INLINE Zmm::Bits accumulate(Zmm::Bits total, Zmm::Bits counts) {
    return Zmm::add(total, counts);
  }
};

BIDIFF_SCALED_KERNEL("avx512vpopcntdq", Zmm, CountInstruction);

}  // namespace

extern const Kernel kAvx512vpopcntdq = {"avx512vpopcntdq",
                                        popcount_packed_bytes,
                                        popcount_pack,
                                        popcount_run<Zmm, CountInstruction>,
                                        kFusedPlanes | kFusedNorm | kFusedSkip | kFusedStore,
                                        &kScaled};

}  // namespace bidiff
