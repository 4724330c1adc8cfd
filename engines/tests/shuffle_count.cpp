// The template of the VPOPCNTDQ kernel with a population count by byte shuffles, and the operand
// forms of VPOPCNTD/Q that the emulator knows, one by one.
#include <string.h>

#include "../kernels/popcount_words.h"
#include "../kernels/zmm.h"

namespace bidiff {
namespace {

struct CountByShuffle {
  static constexpr int kMaxAdditions = 0;
  BIDIFF_INLINE Zmm::Bits add(Zmm::Bits counts, Zmm::Bits a) {
    const __m512i nibbles = _mm512_set1_epi8(0x0f);
    const __m512i table =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(a, nibbles));
    const __m512i high =
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(a, 4), nibbles));
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_add_epi8(low, high), _mm512_set1_epi8(1));
    return Zmm::add(counts, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
};

// What each lane must hold: the count of ones of `from`, or, where the mask is 0, `before` or zero.
bool holds(const uint8_t* result, const uint8_t* from, const uint8_t* before, int bytes,
           int element, bool broadcast, uint64_t mask, bool zeroing) {
  for (int lane = 0; lane < bytes / element; ++lane) {
    uint64_t value = 0, wanted = 0, got = 0;
    memcpy(&value, from + (broadcast ? 0 : lane * element), static_cast<size_t>(element));
    if ((mask >> lane) & 1) {
      while (value) wanted += value & 1, value >>= 1;
    } else if (!zeroing) {
      memcpy(&wanted, before + lane * element, static_cast<size_t>(element));
    }
    memcpy(&got, result + lane * element, static_cast<size_t>(element));
    if (got != wanted) return false;
  }
  for (int i = bytes; i < 64; ++i) {
    if (result[i]) return false;
  }
  return true;
}

alignas(64) uint8_t source[192], initial[64], result[64];

}  // namespace

extern const Kernel kShuffleCount;
const Kernel kShuffleCount = {
    "shuffle count", popcount_packed_bytes, popcount_pack, popcount_run<Zmm, CountByShuffle>, 0,
    nullptr};

// Runs one form with register `to` loaded with `initial`, zmm21 and zmm3 with `source`, k5 with a
// mask, rax with `source` and rcx with 64, then compares.
#define FORM(text, to, bytes, element, from, broadcast, mask, zeroing)                           \
  do {                                                                                           \
    asm volatile("vmovdqa64 %[initial], %%" to                                                   \
                 "\n\tvmovdqa64 %[source], %%zmm21\n\t"                                          \
                 "vmovdqa64 %[source], %%zmm3\n\tkmovq %[bits], %%k5\n\t" text                   \
                 "\n\tvmovdqa64 %%" to ", %[result]"                                             \
                 : [result] "=m"(result)                                                         \
                 : [initial] "m"(initial), [source] "m"(source), [bits] "r"(kMask), "a"(source), \
                   "c"(uint64_t{64})                                                             \
                 : "xmm1", "xmm3", "xmm9", "xmm17", "xmm21", "xmm30", "k5", "memory");           \
    if (!holds(result, from, initial, bytes, element, broadcast, mask, zeroing)) return false;   \
  } while (0)

bool emulator_is_right() {
  constexpr uint64_t kMask = 0xb5a6, kAll = ~uint64_t{0};
  for (int i = 0; i < 192; ++i) source[i] = static_cast<uint8_t>(i * 73 + (i >> 3) * 29 + 5);
  for (int i = 0; i < 64; ++i) initial[i] = static_cast<uint8_t>(200 - 3 * i);
  FORM("vpopcntd %%zmm21, %%zmm1", "zmm1", 64, 4, source, false, kAll, false);
  FORM("vpopcntd %%zmm3, %%zmm30", "zmm30", 64, 4, source, false, kAll, false);
  FORM("vpopcntq %%zmm3, %%zmm17", "zmm17", 64, 8, source, false, kAll, false);
  FORM("vpopcntd (%%rax), %%zmm9", "zmm9", 64, 4, source, false, kAll, false);
  FORM("vpopcntd 64(%%rax), %%zmm9", "zmm9", 64, 4, source + 64, false, kAll, false);
  FORM("vpopcntd 20(%%rax)%{1to16%}, %%zmm17", "zmm17", 64, 4, source + 20, true, kAll, false);
  FORM("vpopcntq 16(%%rax,%%rcx)%{1to8%}, %%zmm1", "zmm1", 64, 8, source + 80, true, kAll, false);
  FORM("vpopcntd 7(%%rax,%%rcx,1), %%zmm1", "zmm1", 64, 4, source + 71, false, kAll, false);
  FORM("vpopcntd %%zmm21, %%zmm1%{%%k5%}", "zmm1", 64, 4, source, false, kMask, false);
  FORM("vpopcntd 64(%%rax), %%zmm30%{%%k5%}%{z%}", "zmm30", 64, 4, source + 64, false, kMask, true);
  FORM("vpopcntq %%zmm3, %%zmm9%{%%k5%}%{z%}", "zmm9", 64, 8, source, false, kMask, true);
  return true;
}

}  // namespace bidiff
