// AArch64: no instruction counts the ones of a word, but one counts those of every byte.
#include "neon.h"

#include "popcount_words.h"
#include "scaled_run.h"

namespace bidiff {
namespace {

// Counts every byte separately, 3 instructions for 32 channels of 4 pixels, and adds the bytes of a
// word only before one can overflow.
struct CountBytes {
  static constexpr int kMaxAdditions = 255 / 8;
  BIDIFF_INLINE Neon::Bits add(Neon::Bits counts, Neon::Bits a) {
    const uint8x16_t ones = vcntq_u8(vreinterpretq_u8_u32(a));
    // In assembly, so that no compiler pass moves it to a second set of registers.
    asm("add %0.16b, %0.16b, %1.16b" : "+w"(counts) : "w"(ones));
    return counts;
  }
  BIDIFF_INLINE Neon::Bits accumulate(Neon::Bits total, Neon::Bits counts) {
    return vpadalq_u16(total, vpaddlq_u8(vreinterpretq_u8_u32(counts)));
  }
};

BIDIFF_SCALED_KERNEL("neon", Neon, CountBytes);

}  // namespace

extern const Kernel kNeon = {"neon",
                             popcount_packed_bytes,
                             popcount_pack,
                             popcount_run<Neon, CountBytes>,
                             kFusedPlanes | kFusedNorm | kFusedSkip | kFusedStore,
                             &kScaled};

}  // namespace bidiff
