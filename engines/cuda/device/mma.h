// Matrix products of a warp, D = A B + D, as instructions. Fragments are those of the PTX ISA
// ("Warp Level Matrix Multiply-Accumulate Instructions"): with row = lane / 4, column = lane % 4,
//
//   A  16 x K  a0: row, first half of K; a1: row + 8; a2: row, second half of K; a3: row + 8
//              a lane's register holds part `column` of four of that half of K
//   B  K x 8   b0, b1: the same halves and parts, of column lane / 4
//   D  16 x 8  d0, d1: row, columns 2 * column and the next; d2, d3: row + 8
//
// The 8-row products of sm_75 have only a0, b0, d0 and d1, with half of K.
#pragma once

#include "language.h"

#ifdef BIDIFF_EMULATED
#include "../../tests/emulated_cuda/mma.h"
#else

namespace bidiff::cuda {
namespace {

// K = 128 bits.
BIDIFF_DEVICE void mma_xor_8(int& d0, int& d1, unsigned a, unsigned b) {
  asm("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+r"(d0), "+r"(d1)
      : "r"(a), "r"(b));
}

// K = 16 bytes.
BIDIFF_DEVICE void mma_int8_8(int& d0, int& d1, unsigned a, unsigned b) {
  asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+r"(d0), "+r"(d1)
      : "r"(a), "r"(b));
}

#define BIDIFF_MMA_16(name, instruction)                                                   \
  BIDIFF_DEVICE void name(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) { \
    asm(instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"               \
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                   \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                   \
  }

// K = 256 bits, 256 bits and 32 bytes.
BIDIFF_MMA_16(mma_xor_16, "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc")
BIDIFF_MMA_16(mma_and_16, "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc")
BIDIFF_MMA_16(mma_int8_16, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32")
#undef BIDIFF_MMA_16

}  // namespace
}  // namespace bidiff::cuda

#endif
