#include "cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(BIDIFF_NEONDOTPROD_KERNELS)
#include <sys/auxv.h>
#endif

namespace bidiff {

#if defined(__x86_64__)
namespace {

unsigned long long saved_state() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
}

bool bit(unsigned value, int index) { return (value >> index) & 1; }

}  // namespace

// Bit positions: Intel SDM volume 2A, CPUID leaves 1 and 7 (subleaves 0 and 1); XCR0: volume 1,
// section 13.3.
CpuFeatures cpu_features() {
  CpuFeatures found{};
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return found;  // OSXSAVE
  const bool fma = bit(c, 12);
  const unsigned long long saved = saved_state();
  const bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  found.avx2 = ymm && bit(b, 5);
  found.avx512bw = zmm && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);
  found.avx512vpopcntdq = found.avx512bw && bit(c, 14);
  found.fma = found.avx2 && fma;
  const unsigned subleaves = a;
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    found.avx512bf16 = found.avx512bw && found.fma && bit(a, 5);
  }
  return found;
}
#elif defined(BIDIFF_NEONDOTPROD_KERNELS)
// As in Linux's asm/hwcap.h, of which older ones lack some.
constexpr unsigned long kHwcapAsimddp = 1ul << 20, kHwcap2Bf16 = 1ul << 14;

CpuFeatures cpu_features() {
  CpuFeatures found{};
  found.neondotprod = getauxval(AT_HWCAP) & kHwcapAsimddp;
  found.neonbf16 = found.neondotprod && (getauxval(AT_HWCAP2) & kHwcap2Bf16);
  return found;
}
#else
CpuFeatures cpu_features() { return CpuFeatures{}; }
#endif

}  // namespace bidiff
