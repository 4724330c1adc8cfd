#include "select.h"

#include "../kernels/cpu_features.h"

namespace bidiff {
namespace {

constexpr FloatKernels kPortableFloats = {
    "portable", false, &portable::kNorm, &portable::kConv3x3, &portable::kPointwise,
    &portable::kAttention};
#if defined(BIDIFF_X86_KERNELS)
constexpr FloatKernels kAvx2Floats = {
    "avx2", false, &avx2::kNorm, &avx2::kConv3x3, &avx2::kPointwise, &avx2::kAttention};
constexpr FloatKernels kAvx512Floats = {
    "avx512", false, &avx512::kNorm, &avx512::kConv3x3, &avx512::kPointwise, &avx512::kAttention};
constexpr FloatKernels kAvx512Bf16Floats = {
    "avx512bf16", true, &avx512bf16::kNorm, &avx512bf16::kConv3x3, &avx512bf16::kPointwise,
    &avx512bf16::kAttention};
#endif

}  // namespace

const FloatKernels& float_kernels(const Kernel& binary) {
#if defined(BIDIFF_X86_KERNELS)
  const CpuFeatures cpu = cpu_features();
  if (&binary == &kAvx512vpopcntdq || &binary == &kAvx512bw) {
    if (cpu.avx512bf16) return kAvx512Bf16Floats;
    if (cpu.fma) return kAvx512Floats;
  }
  if (&binary == &kAvx2 && cpu.fma) return kAvx2Floats;
#else
  static_cast<void>(binary);
#endif
  return kPortableFloats;
}

}  // namespace bidiff
