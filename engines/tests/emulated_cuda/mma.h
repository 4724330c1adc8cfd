// Matrix products of a warp, with the fragments that the PTX ISA assigns to each lane: every
// element is looked up by its row and column, as the manual's formulas say, not as the kernels use
// them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "language.h"

namespace bidiff::cuda {
namespace {

// One lane's operands; unused registers stay 0.
struct MmaOperand {
  unsigned a[4], b[2];
  int d[4];
};

struct MmaElement {
  int lane, reg, shift;
};

// Element (row, k) of A with `bits` bits and `half_k` elements of K in a register pair's half:
// groupID = row % 8, threadID_in_group by k within the half.
BIDIFF_DEVICE MmaElement mma_a(int row, int k, int bits, int half_k) {
  const int per_register = 32 / bits, inside = k % half_k;
  return {row % 8 * 4 + inside / per_register, row / 8 + 2 * (k / half_k),
          inside % per_register * bits};
}
BIDIFF_DEVICE MmaElement mma_b(int k, int column, int bits, int half_k) {
  const int per_register = 32 / bits, inside = k % half_k;
  return {column * 4 + inside / per_register, k / half_k, inside % per_register * bits};
}
BIDIFF_DEVICE MmaElement mma_d(int row, int column) {
  return {row % 8 * 4 + column / 2, column % 2 + 2 * (row / 8), 0};
}

enum class MmaKind { kXor, kAnd, kInt8 };

// What of a register is multiplied at once: its word of bits, or each byte.
BIDIFF_DEVICE void mma_unpack(unsigned from, unsigned* to) { *to = from; }
BIDIFF_DEVICE void mma_unpack(unsigned from, int16_t* to) {
  for (int byte = 0; byte < 4; ++byte) to[byte] = static_cast<int8_t>(from >> 8 * byte);
}

template <MmaKind kKind, int kRows, int kK>
BIDIFF_DEVICE void mma_warp(void* const* operands) {
  constexpr bool kBytes = kKind == MmaKind::kInt8;
  constexpr int kBits = kBytes ? 8 : 1;
  constexpr int kHalf = 4 * 32 / kBits;  // four lanes share a row
  constexpr int kStep = 32 / kBits;      // adjacent elements of a register
  constexpr int kEach = kBytes ? 1 : kStep;
  const auto lane = [&](int i) { return static_cast<MmaOperand*>(operands[i]); };
  std::conditional_t<kBytes, int16_t, unsigned> a[kRows][kK / kEach], b[8][kK / kEach];
  for (int k = 0; k < kK; k += kStep) {
    for (int row = 0; row < kRows; ++row) {
      const MmaElement at = mma_a(row, k, kBits, kHalf);
      mma_unpack(lane(at.lane)->a[at.reg], a[row] + k / kEach);
    }
    for (int column = 0; column < 8; ++column) {
      const MmaElement at = mma_b(k, column, kBits, kHalf);
      mma_unpack(lane(at.lane)->b[at.reg], b[column] + k / kEach);
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = 0;
      for (int i = 0; i < kK / kEach; ++i) {
        if constexpr (kBytes) {
          sum += a[row][i] * b[column][i];
        } else {
          sum += popcount(kKind == MmaKind::kXor ? a[row][i] ^ b[column][i]
                                                 : a[row][i] & b[column][i]);
        }
      }
      const MmaElement at = mma_d(row, column);
      lane(at.lane)->d[at.reg] += sum;
    }
  }
}

template <MmaKind kKind, int kRows, int kK>
BIDIFF_DEVICE void mma(MmaOperand* operand) {
  Block::current().warp(mma_warp<kKind, kRows, kK>, operand);
}

template <MmaKind kKind, int kK>
BIDIFF_DEVICE void mma_8(int& d0, int& d1, unsigned a, unsigned b) {
  MmaOperand operand{{a}, {b}, {d0, d1}};
  mma<kKind, 8, kK>(&operand);
  d0 = operand.d[0];
  d1 = operand.d[1];
}
template <MmaKind kKind, int kK>
BIDIFF_DEVICE void mma_16(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  MmaOperand operand{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  mma<kKind, 16, kK>(&operand);
  std::memcpy(d, operand.d, sizeof(d));
}

BIDIFF_DEVICE void mma_xor_8(int& d0, int& d1, unsigned a, unsigned b) {
  mma_8<MmaKind::kXor, 128>(d0, d1, a, b);
}
BIDIFF_DEVICE void mma_int8_8(int& d0, int& d1, unsigned a, unsigned b) {
  mma_8<MmaKind::kInt8, 16>(d0, d1, a, b);
}
BIDIFF_DEVICE void mma_xor_16(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  mma_16<MmaKind::kXor, 256>(d, a, b0, b1);
}
BIDIFF_DEVICE void mma_and_16(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  mma_16<MmaKind::kAnd, 256>(d, a, b0, b1);
}
BIDIFF_DEVICE void mma_int8_16(int (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  mma_16<MmaKind::kInt8, 32>(d, a, b0, b1);
}

}  // namespace
}  // namespace bidiff::cuda
