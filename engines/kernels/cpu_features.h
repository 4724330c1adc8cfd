// What the running CPU and operating system can execute. Compiled without instruction-set flags.
#pragma once

namespace bidiff {

struct CpuFeatures {
  bool avx2;             // AVX2, and the OS saves ymm registers
  bool avx512bw;         // AVX-512 F, BW, DQ and VL, and the OS saves zmm registers
  bool avx512vpopcntdq;  // the above and VPOPCNTDQ
  bool fma;              // AVX2 and FMA
  bool avx512bf16;       // avx512bw, FMA and AVX512_BF16
  bool neondotprod;      // the dot product of ARMv8.2
  bool neonbf16;         // the above and the products of bfloat16 of ARMv8.6
};

CpuFeatures cpu_features();

}  // namespace bidiff
