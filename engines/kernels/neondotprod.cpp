// AArch64 with the dot product of ARMv8.2: the ones of a word's bytes are added to its lane of 32
// bits, as fast as bytes to bytes, so nothing overflows and nothing is left to be widened.
#include "neon.h"
#include "popcount_words.h"
#include "scaled_run.h"

namespace bidiff {
namespace {

struct CountDots {
  static constexpr int kMaxAdditions = 0;
  BIDIFF_INLINE Neon::Bits add(Neon::Bits counts, Neon::Bits a) {
    const uint8x16_t ones = vcntq_u8(vreinterpretq_u8_u32(a));
    // In assembly, so that no compiler pass moves it to a second set of registers.
    asm("udot %0.4s, %1.16b, %2.16b" : "+w"(counts) : "w"(ones), "w"(vdupq_n_u8(1)));
    return counts;
  }
  BIDIFF_INLINE Neon::Bits accumulate(Neon::Bits total, Neon::Bits counts) {
    return Neon::add(total, counts);
  }
};

BIDIFF_SCALED_KERNEL("neondotprod", Neon, CountDots);

}  // namespace

extern const Kernel kNeondotprod = {"neondotprod",
                                    popcount_packed_bytes,
                                    popcount_pack,
                                    popcount_run<Neon, CountDots>,
                                    kFusedPlanes | kFusedNorm | kFusedSkip | kFusedStore,
                                    &kScaled};

}  // namespace bidiff
