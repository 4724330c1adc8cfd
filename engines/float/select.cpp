#include "select.h"

#include "../kernels/cpu_features.h"

namespace bidiff {
namespace {

#define BIDIFF_FLOAT_KERNELS(isa, bfloat16)                                        \
  {#isa, bfloat16, &isa::kNorm, &isa::kConv3x3, &isa::kDirect3x3, &isa::kPointwise, \
   &isa::kAttention}

constexpr FloatKernels kPortableFloats = BIDIFF_FLOAT_KERNELS(portable, false);
#if defined(BIDIFF_X86_KERNELS)
constexpr FloatKernels kAvx2Floats = BIDIFF_FLOAT_KERNELS(avx2, false);
constexpr FloatKernels kAvx512Floats = BIDIFF_FLOAT_KERNELS(avx512, false);
#if defined(BIDIFF_AVX512BF16_KERNELS)
constexpr FloatKernels kAvx512Bf16Floats = BIDIFF_FLOAT_KERNELS(avx512bf16, true);
#endif
#endif
#undef BIDIFF_FLOAT_KERNELS

}  // namespace

const FloatKernels& float_kernels(const Kernel& binary) {
#if defined(BIDIFF_X86_KERNELS)
  const CpuFeatures cpu = cpu_features();
  if (&binary == &kAvx512vpopcntdq || &binary == &kAvx512bw) {
#if defined(BIDIFF_AVX512BF16_KERNELS)
    if (cpu.avx512bf16) return kAvx512Bf16Floats;
#endif
    if (cpu.fma) return kAvx512Floats;
  }
  if (&binary == &kAvx2 && cpu.fma) return kAvx2Floats;
#else
  static_cast<void>(binary);
#endif
  return kPortableFloats;
}

}  // namespace bidiff
