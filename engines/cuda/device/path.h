// How a path multiplies one chunk of K: 32 output channels by 32 pixels of a warp by 256 bits.
//
// All paths take the same fragments, those of m16n8k256 on bits, so there is one prepared form and
// one loop (tile.h). `counted` becomes the sum as prepare.h derives it.
#pragma once

#include "mma.h"

namespace bidiff::cuda {
namespace {

constexpr int kTiles = 2;    // of 16 output channels
constexpr int kColumns = 4;  // of 8 pixels

using Counts = int[kTiles][kColumns][4];
using WeightBits = unsigned[kTiles][4];
using PixelBits = unsigned[kColumns][2];

// kScale: what a count is multiplied by kSubtractsOnes: the sum is smaller by twice the ones of the
// channel's weights kCountsPixels: and by twice the ones of the pixel's activations, which the tile
// has to count

// kUnroll:         chunks of one loop; a full 3x3 slab has 9

struct XorPath {
  static constexpr int kUnroll = 3;
  static constexpr int kScale = -2;
  static constexpr bool kSubtractsOnes = false, kCountsPixels = false;

  BIDIFF_DEVICE void multiply(Counts& counts, const WeightBits& a, const PixelBits& b) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#if BIDIFF_ARCHITECTURE >= 80
        mma_xor_16(counts[m][j], a[m], b[j][0], b[j][1]);
#else
        int (&d)[4] = counts[m][j];
        mma_xor_8(d[0], d[1], a[m][0], b[j][0]);
        mma_xor_8(d[2], d[3], a[m][1], b[j][0]);
        mma_xor_8(d[0], d[1], a[m][2], b[j][1]);
        mma_xor_8(d[2], d[3], a[m][3], b[j][1]);
#endif
      }
    }
  }
};

#if BIDIFF_ARCHITECTURE >= 80
struct AndPath {
  static constexpr int kUnroll = 3;
  static constexpr int kScale = 4;
  static constexpr bool kSubtractsOnes = true, kCountsPixels = true;

  BIDIFF_DEVICE void multiply(Counts& counts, const WeightBits& a, const PixelBits& b) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int m = 0; m < kTiles; ++m) mma_and_16(counts[m][j], a[m], b[j][0], b[j][1]);
    }
  }
};
#endif

// 256 bits are 8 products of 32 bytes. K may be summed in any order if A and B agree: in product i
// a lane uses bits i, i + 8, i + 16 and i + 24 of the words that it already holds: one shift and
// one mask for four bytes.
struct Int8Path {
  static constexpr int kUnroll = 1;  // is long enough
  static constexpr int kScale = 2;
  static constexpr bool kSubtractsOnes = true, kCountsPixels = false;

  BIDIFF_DEVICE unsigned bits_as_bytes(unsigned word, int i) { return word >> i & 0x01010101u; }
  // 1 for a one, -1 for a zero: 0x01 + 0xfe * (1 - bit), which carries into no neighbour.
  BIDIFF_DEVICE unsigned signs_as_bytes(unsigned word, int i) {
    return bits_as_bytes(~word, i) * 0xfeu + 0x01010101u;
  }

  BIDIFF_DEVICE void multiply(Counts& counts, const WeightBits& a, const PixelBits& b) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      unsigned signs[kTiles][4];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int r = 0; r < 4; ++r) signs[m][r] = signs_as_bytes(a[m][r], i);
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const unsigned b0 = bits_as_bytes(b[j][0], i), b1 = bits_as_bytes(b[j][1], i);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#if BIDIFF_ARCHITECTURE >= 80
          mma_int8_16(counts[m][j], signs[m], b0, b1);
#else
          int (&d)[4] = counts[m][j];
          mma_int8_8(d[0], d[1], signs[m][0], b0);
          mma_int8_8(d[2], d[3], signs[m][1], b0);
          mma_int8_8(d[0], d[1], signs[m][2], b1);
          mma_int8_8(d[2], d[3], signs[m][3], b1);
#endif
        }
      }
    }
  }
};

}  // namespace
}  // namespace bidiff::cuda
