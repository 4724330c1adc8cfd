// Binary convolution with lanes = pixels as single bits, for CPUs without a vector popcount.
//
// Why: counting the ones of x ^ w byte by byte is bound by one shuffle port. Here a vector register
// holds one bit of 512 (or 256) *pixels*, so a weight is uniform over the register, and what it
// does to a group of inputs can be looked up instead of computed:
//
//   Nine inputs (for k = 3 the nine taps of one channel, for k = 1 nine channels) form a "nonet" of
//   three triples. For a triple a, b, c and each of the 8 patterns of its three weight bits, the
//   number of mismatches is s + 2*m, where m = majority(a^w0, b^w1, c^w2) and s is the parity. The
//   8 majorities are stored, once for all output channels. A parity depends on the pattern only
//   by a complement: s = (a^b^c) ^ (w0^w1^w2). So the three parities of a nonet are again a triple
//   of planes with a triple of weight bits: their majority is looked up the same way, and their own
//   parity has only two forms. A nonet thus costs five lookups, which yield one plane of weight 1
//   and four of weight 2, instead of nine planes.
//
//   Planes are summed by full adders into vertical counters (bit i of all pixels' counts in plane
//   i), 8 nonets at a time, with the tables of 8 nonets (17 KB for 512 bits) in the L1 cache.
//
// Layout: a "unit" is up to 32 slots of kLanes neighbouring pixels. Bit t of lane l of a plane is
// pixel l of slot t, so packing is compare-and-or, and one shift moves a slot's bits of every lane
// into place for the float epilogue. A unit holds whole rows, or a part of one wide row.
//
// Included by one file per instruction set, which supplies `Vec`. Everything is in an unnamed
// namespace: see binary_conv.h for why nothing here may have external linkage.
#pragma once

#include <string.h>

#include "border_offsets.h"
#include "support.h"

namespace bidiff {
namespace {

constexpr int kSlots = 32;        // slots in a unit, one per bit of a lane
constexpr int kNonets = 8;        // nonets in a chunk
constexpr int kNonetLookups = 5;  // majority of each triple, majority and parity of parities
constexpr int kNonetLines = 34;   // 3 * 8 majorities, 2 parities, 8 majorities
constexpr int kMaxPlanes = 28;    // 9 * 2^24 inputs, the maximum of check.h

// ---- weights ------------------------------------------------------------------------------------

struct Sizes {
  int64_t nonets, chunks;
  int planes;  // bits of a counter: 8, 10 to 13, 15 or kMaxPlanes
};

BIDIFF_INLINE Sizes sizes_of(const Shape& shape) {
  Sizes sizes;
  sizes.nonets = shape.kernel == 3 ? shape.in_channels : (shape.in_channels + 8) / 9;
  sizes.chunks = (sizes.nonets + kNonets - 1) / kNonets;
  const int64_t largest = 9 * kNonets * sizes.chunks;
  sizes.planes = largest < 256 ? 8 : 10;
  while (largest >> sizes.planes) ++sizes.planes;
  if (sizes.planes > 13) sizes.planes = sizes.planes > 15 ? kMaxPlanes : 15;
  return sizes;
}

// Packed: int32 offsets [Cout][kClasses], then lookups [chunk][Cout][kNonets][kNonetLookups] bytes.
// A lookup is the line to read, in eighths of a line (an address is base + 8 * lookup for 64-byte
// lines). That is 5 bytes for 9 weights, 4.4 times the contract's words, and avoids decoding them.
size_t bitslice_packed_bytes(const Shape& shape) {
  const Sizes sizes = sizes_of(shape);
  return static_cast<size_t>(shape.out_channels) *
         (kClasses * sizeof(int32_t) + static_cast<size_t>(sizes.chunks) * kNonets * kNonetLookups);
}

void bitslice_pack(const Shape& shape, const int32_t* words, void* packed) {
  const Sizes sizes = sizes_of(shape);
  int32_t* offsets = static_cast<int32_t*>(packed);
  uint8_t* lookups = reinterpret_cast<uint8_t*>(offsets + shape.out_channels * kClasses);
  for (int64_t channel = 0; channel < shape.out_channels; ++channel) {
    pack_offsets(shape, words, channel, offsets + channel * kClasses);
    for (int64_t nonet = 0; nonet < sizes.chunks * kNonets; ++nonet) {
      uint8_t* out =
          lookups + ((nonet / kNonets * shape.out_channels + channel) * kNonets + nonet % kNonets) *
                        kNonetLookups;
      int parities = 0;
      for (int triple = 0; triple < 3; ++triple) {
        int pattern = 0;
        for (int i = 0; i < 3; ++i) {
          const int index = triple * 3 + i;
          pattern |= (shape.kernel == 3 ? weight_bit(shape, words, channel, index, nonet)
                                        : weight_bit(shape, words, channel, 0, nonet * 9 + index))
                     << i;
        }
        out[triple] = static_cast<uint8_t>(pattern * 8);
        parities |= ((pattern ^ (pattern >> 1) ^ (pattern >> 2)) & 1) << triple;
      }
      out[3] = static_cast<uint8_t>(parities * 8);
      out[4] = static_cast<uint8_t>(((parities ^ (parities >> 1) ^ (parities >> 2)) & 1) * 8);
    }
  }
}

// ---- tables and adders --------------------------------------------------------------------------

// majority(a ^ w0, b ^ w1, c ^ w2) for each pattern of weights, `stride` lines apart.
template <class Vec>
BIDIFF_INLINE void store_majorities(typename Vec::Bits* line, int stride, typename Vec::Bits a,
                                    typename Vec::Bits b, typename Vec::Bits c) {
  Vec::store(line + 0 * stride, Vec::template majority<0>(a, b, c));
  Vec::store(line + 1 * stride, Vec::template majority<1>(a, b, c));
  Vec::store(line + 2 * stride, Vec::template majority<2>(a, b, c));
  Vec::store(line + 3 * stride, Vec::template majority<3>(a, b, c));
  Vec::store(line + 4 * stride, Vec::template majority<4>(a, b, c));
  Vec::store(line + 5 * stride, Vec::template majority<5>(a, b, c));
  Vec::store(line + 6 * stride, Vec::template majority<6>(a, b, c));
  Vec::store(line + 7 * stride, Vec::template majority<7>(a, b, c));
}

template <class Vec>
BIDIFF_INLINE void build_nonet(typename Vec::Bits* table, const typename Vec::Bits* planes) {
  using Bits = typename Vec::Bits;
  Bits parity[3];
  for (int triple = 0; triple < 3; ++triple) {
    const Bits a = planes[3 * triple], b = planes[3 * triple + 1], c = planes[3 * triple + 2];
    store_majorities<Vec>(table + 8 * triple, 1, a, b, c);
    parity[triple] = Vec::parity(a, b, c);
  }
  const Bits even = Vec::parity(parity[0], parity[1], parity[2]);
  Vec::store(table + 24, even);
  Vec::store(table + 25, Vec::complement(even));
  store_majorities<Vec>(table + 26, 1, parity[0], parity[1], parity[2]);
}

// Adds what a chunk of nonets counts for one output channel to its vertical counter of kPlanes
// planes; a number known at compile time unrolls the carries (a loop over them costs a third more).
template <class Vec, bool kFirst, int kPlanes>
BIDIFF_INLINE void add_chunk(const typename Vec::Bits* table, const uint8_t* lookups,
                             typename Vec::Bits* counter) {
  using Bits = typename Vec::Bits;
  const Bits zero = Vec::zero();
  Bits level[7];
  for (int i = 0; i < 7; ++i) level[i] = kFirst ? zero : Vec::load(counter + i);
  Bits twos[4], sixteens[5];
  const char* base = reinterpret_cast<const char*>(table);
  constexpr size_t kEighth = sizeof(Bits) / 8, kNonetBytes = kNonetLines * sizeof(Bits);
#pragma GCC unroll 4
  for (int pair = 0; pair < 4; ++pair) {
    const char* a = base + 2 * pair * kNonetBytes;
    const char* b = a + kNonetBytes;
    const uint8_t* to_a = lookups + 2 * kNonetLookups * pair;
    const uint8_t* to_b = to_a + kNonetLookups;
    const auto at = [](const char* nonet, int lines,
                       uint8_t eighths) __attribute__((always_inline)) {
      return Vec::load(
          reinterpret_cast<const Bits*>(nonet + static_cast<size_t>(eighths) * kEighth) + lines);
    };
    Bits fours[4], eights[2];
    level[0] = Vec::full_add(level[0], at(a, 24, to_a[4]), at(b, 24, to_b[4]), &twos[pair]);
    level[1] = Vec::full_add(level[1], at(a, 26, to_a[3]), at(b, 26, to_b[3]), &fours[0]);
    level[1] = Vec::full_add(level[1], at(a, 0, to_a[0]), at(b, 0, to_b[0]), &fours[1]);
    level[1] = Vec::full_add(level[1], at(a, 8, to_a[1]), at(b, 8, to_b[1]), &fours[2]);
    level[1] = Vec::full_add(level[1], at(a, 16, to_a[2]), at(b, 16, to_b[2]), &fours[3]);
    level[2] = Vec::full_add(level[2], fours[0], fours[1], &eights[0]);
    level[2] = Vec::full_add(level[2], fours[2], fours[3], &eights[1]);
    level[3] = Vec::full_add(level[3], eights[0], eights[1], &sixteens[pair]);
  }
  Bits fours[2], eight;
  level[1] = Vec::full_add(level[1], twos[0], twos[1], &fours[0]);
  level[1] = Vec::full_add(level[1], twos[2], twos[3], &fours[1]);
  level[2] = Vec::full_add(level[2], fours[0], fours[1], &eight);
  level[3] = Vec::half_add(level[3], eight, &sixteens[4]);
  Bits more[3], sixty_fours[2], carry;
  level[4] = Vec::full_add(level[4], sixteens[0], sixteens[1], &more[0]);
  level[4] = Vec::full_add(level[4], sixteens[2], sixteens[3], &more[1]);
  level[4] = Vec::half_add(level[4], sixteens[4], &more[2]);
  level[5] = Vec::full_add(level[5], more[0], more[1], &sixty_fours[0]);
  level[5] = Vec::half_add(level[5], more[2], &sixty_fours[1]);
  level[6] = Vec::full_add(level[6], sixty_fours[0], sixty_fours[1], &carry);
  for (int i = 0; i < 7; ++i) Vec::store(counter + i, level[i]);
#pragma GCC unroll 32
  for (int i = 7; i < kPlanes; ++i) {
    if (kFirst) {
      Vec::store(counter + i, i == 7 ? carry : zero);
    } else {
      Vec::store(counter + i, Vec::half_add(Vec::load(counter + i), carry, &carry));
    }
  }
}

// ---- from counters to integers ------------------------------------------------------------------

// One step of a bit-matrix transpose within lanes: fields of `kBits` bits of a (lower) and b
// (upper) become fields of twice that; even[] are those at even positions, odd[] at odd ones.
template <class Vec, int kBits>
BIDIFF_INLINE void widen(typename Vec::Bits mask, typename Vec::Bits a, typename Vec::Bits b,
                         typename Vec::Bits* even, typename Vec::Bits* odd) {
  *even = Vec::select(mask, a, Vec::template shift_left<kBits>(b));
  *odd = Vec::select(mask, Vec::template shift_right<kBits>(a), b);
}

// Twice the counts of every slot: out[t] is kLanes int32. Fast for counters of at most 15 planes.
template <class Vec, int kPlanes>
BIDIFF_INLINE void doubled_counts(const typename Vec::Bits* counter, int planes,
                                  typename Vec::Bits* out) {
  using Bits = typename Vec::Bits;
  static_assert(kPlanes == 12 || kPlanes == 16, "");
  const Bits zero = Vec::zero();
  Bits plane[16], pairs[2][8], quads[4][4], octets[8][2];
  plane[0] = zero;
  for (int i = 1; i < 16; ++i) {
    plane[i] = i < kPlanes && i <= planes ? Vec::load(counter + i - 1) : zero;
  }
  const Bits ones = Vec::broadcast(0x55555555), twos = Vec::broadcast(0x33333333);
  const Bits fours = Vec::broadcast(0x0f0f0f0f), eights = Vec::broadcast(0x00ff00ff);
  for (int i = 0; i < kPlanes / 2; ++i) {
    widen<Vec, 1>(ones, plane[2 * i], plane[2 * i + 1], &pairs[0][i], &pairs[1][i]);
  }
  for (int from = 0; from < 2; ++from) {
    for (int i = 0; i < kPlanes / 4; ++i) {
      widen<Vec, 2>(twos, pairs[from][2 * i], pairs[from][2 * i + 1], &quads[from][i],
                    &quads[from + 2][i]);
    }
  }
  for (int from = 0; from < 4; ++from) {
    widen<Vec, 4>(fours, quads[from][0], quads[from][1], &octets[from][0], &octets[from + 4][0]);
    if (kPlanes == 16) {
      widen<Vec, 4>(fours, quads[from][2], quads[from][3], &octets[from][1], &octets[from + 4][1]);
    } else {
      octets[from][1] = Vec::both(fours, quads[from][2]);
      octets[from + 4][1] = Vec::both(fours, Vec::template shift_right<4>(quads[from][2]));
    }
  }
  const Bits low = Vec::broadcast(0x0000ffff);
  for (int from = 0; from < 8; ++from) {
    Bits even, odd;
    widen<Vec, 8>(eights, octets[from][0], octets[from][1], &even, &odd);
    Vec::store(out + from, Vec::both(low, even));
    Vec::store(out + from + 8, Vec::both(low, odd));
    Vec::store(out + from + 16, Vec::template shift_right<16>(even));
    Vec::store(out + from + 24, Vec::template shift_right<16>(odd));
  }
}

template <class Vec>
BIDIFF_INLINE void doubled_counts_of_many_planes(const typename Vec::Bits* counter, int planes,
                                                 typename Vec::Bits* out) {
  const typename Vec::Bits one = Vec::broadcast(1);
  for (int slot = 0; slot < kSlots; ++slot) {
    typename Vec::Bits count = Vec::zero();
    for (int i = planes - 1; i >= 0; --i) {
      const typename Vec::Bits bit = Vec::shift_right_by(Vec::load(counter + i), Vec::shift(slot));
      count = Vec::either(Vec::template shift_left<1>(count), Vec::both(one, bit));
    }
    Vec::store(out + slot, Vec::template shift_left<1>(count));
  }
}

}  // namespace
}  // namespace bidiff
