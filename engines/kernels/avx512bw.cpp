// AVX-512 F, BW, DQ and VL, without VPOPCNTDQ: 512 pixels a register, a full adder takes two
// ternary operations.
#include "bitslice_run.h"
#include "byte_counts.h"
#include "scaled_run.h"
#include "zmm.h"

namespace bidiff {
namespace {

BIDIFF_SCALED_KERNEL("avx512bw", Zmm, CountBytes<Zmm>);

}  // namespace

extern const Kernel kAvx512bw = {"avx512bw",        bitslice_packed_bytes, bitslice_pack,
                                 bitslice_run<Zmm>, kBitsliceFused,        &kScaled};

}  // namespace bidiff
