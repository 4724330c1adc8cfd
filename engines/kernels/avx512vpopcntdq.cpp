// AVX-512 F, BW, DQ, VL and VPOPCNTDQ: one instruction counts the ones of 16 words.
#include "popcount_words.h"
#include "zmm.h"

namespace bidiff {
namespace {

struct CountInstruction {
  static constexpr int kMaxAdditions = 0;
  BIDIFF_INLINE Zmm::Bits add(Zmm::Bits counts, Zmm::Bits a) {
    return Zmm::add(counts, _mm512_popcnt_epi32(a));
  }
};

}  // namespace

extern const Kernel kAvx512vpopcntdq = {"avx512vpopcntdq", popcount_packed_bytes, popcount_pack,
                                        popcount_run<Zmm, CountInstruction>,
                                        kFusedPlanes | kFusedNorm | kFusedSkip | kFusedStore};

}  // namespace bidiff
