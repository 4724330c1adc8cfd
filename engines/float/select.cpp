#include "select.h"

#include "../kernels/cpu_features.h"

namespace bidiff {
// What this folder's files export when compiled for an instruction set, as one entry.
#define BIDIFF_FLOAT_KERNELS(isa, rounds)                                                    \
  namespace isa {                                                                            \
  extern const NormKernel kNorm;                                                             \
  extern const ConvKernel kConv3x3, kDirect3x3;                                              \
  extern const PointwiseKernel kPointwise;                                                   \
  extern const AttentionKernel kAttention;                                                   \
  extern const ScanKernel kScan;                                                             \
  static constexpr FloatKernels kFloats = {#isa,        rounds,      &kNorm,      &kConv3x3, \
                                           &kDirect3x3, &kPointwise, &kAttention, &kScan};   \
  }

BIDIFF_FLOAT_KERNELS(portable, false)
#if defined(BIDIFF_X86_KERNELS)
BIDIFF_FLOAT_KERNELS(avx2, true)
BIDIFF_FLOAT_KERNELS(avx512, true)
#if defined(BIDIFF_AVX512BF16_KERNELS)
BIDIFF_FLOAT_KERNELS(avx512bf16, true)
#endif
#endif
#if defined(BIDIFF_NEONBF16_KERNELS)
BIDIFF_FLOAT_KERNELS(neonbf16, true)
#endif
#undef BIDIFF_FLOAT_KERNELS

std::vector<const FloatKernels*> supported_float_kernels() {
  std::vector<const FloatKernels*> found;
#if defined(BIDIFF_X86_KERNELS)
  const CpuFeatures cpu = cpu_features();
#if defined(BIDIFF_AVX512BF16_KERNELS)
  if (cpu.avx512bf16) found.push_back(&avx512bf16::kFloats);
#endif
  if (cpu.avx512bw && cpu.fma) found.push_back(&avx512::kFloats);
  if (cpu.fma) found.push_back(&avx2::kFloats);
#elif defined(BIDIFF_NEONBF16_KERNELS)
  if (cpu_features().neonbf16) found.push_back(&neonbf16::kFloats);
#endif
  found.push_back(&portable::kFloats);
  return found;
}

const FloatKernels& float_kernels(const Kernel& binary) {
#if defined(BIDIFF_X86_KERNELS)
  const CpuFeatures cpu = cpu_features();
  if (&binary == &kAvx512vpopcntdq || &binary == &kAvx512bw) {
#if defined(BIDIFF_AVX512BF16_KERNELS)
    if (cpu.avx512bf16) return avx512bf16::kFloats;
#endif
    if (cpu.fma) return avx512::kFloats;
  }
  if (&binary == &kAvx2 && cpu.fma) return avx2::kFloats;
#elif defined(BIDIFF_NEONBF16_KERNELS)
  if (&binary == &kNeondotprod && cpu_features().neonbf16) return neonbf16::kFloats;
#else
  static_cast<void>(binary);
#endif
  return portable::kFloats;
}

}  // namespace bidiff
