// Contract words to the device form: weights in the order in which lanes hold them, and what the
// border needs.
//
// sum = K_valid - 2 * mismatches, where a tap outside the image is zero bits in the packed map.
// Such a tap counts the ones of its weights as mismatches, so with
//
//   offset = sum over taps of (inside ? Cin : 2 * ones[tap][o])
//
// the paths compute the same sum from what they count (path.h):
//
//   xor   n = popcount(a ^ w)                        sum = offset - 2 n
//   and   n = popcount(a & w), p = popcount(a)       sum = offset - 2 ones + 4 n - 2 p
//   int8  n = sum of a (0 or 1) times w (-1 or 1)    sum = offset - 2 ones + 2 n
//
// because popcount(a ^ w) = p + ones - 2 popcount(a & w), and n of int8 is 2 popcount(a & w) - p.
#pragma once

// tensorrt/prepared_words.cpp runs this on the host, with its own versions of the few functions
// that it needs.
#ifndef BIDIFF_PREPARE_ON_HOST
#include "memory.h"
#endif

namespace bidiff::cuda {
namespace {

// Which weights of 16 channels by 256 bits lane 4 * row + column of a warp holds in its register r,
// of mma.m16n8k256: channel row + 8 * (r & 1), word column + 4 * (r >> 1).
BIDIFF_DEVICE int fragment_channel(int lane, int reg) { return lane / 4 + 8 * (reg & 1); }
BIDIFF_DEVICE int fragment_word(int lane, int reg) { return lane % 4 + 4 * (reg >> 1); }

// A contract word without its padding bits.
BIDIFF_DEVICE unsigned weight_word(const PrepareArguments& arguments, int channel, int tap,
                                   int word) {
  const int words = ceil_div(arguments.in_channels, kWordBits);
  const long long row = static_cast<long long>(channel) * arguments.k * arguments.k + tap;
  const unsigned bits = load(at<const unsigned>(arguments.words) + row * words + word);
  const int valid = arguments.in_channels - word * kWordBits;
  return valid >= kWordBits ? bits : bits & ((1u << valid) - 1);
}

// One word of the fragments.
BIDIFF_DEVICE void prepare_fragment(const PrepareArguments& arguments) {
  const int k = arguments.k, words = ceil_div(arguments.in_channels, kWordBits);
  const PreparedLayout layout = prepared_layout(arguments.out_channels, arguments.in_channels, k);
  const long long index = static_cast<long long>(block_index()) * kPrepareThreads + thread_index();
  if (index >= layout.ones) return;
  const int reg = static_cast<int>(index % 4), lane = static_cast<int>(index / 4 % 32);
  const int tile = static_cast<int>(index / 128 % 2);
  const int chunk = static_cast<int>(index / kFragmentWords % layout.chunks);
  const int block = static_cast<int>(index / kFragmentWords / layout.chunks);

  const int channel = block * kBlockChannels + 16 * tile + fragment_channel(lane, reg);
  const int full = slab_chunks(k, slab_words(k)), slab = chunk / full;
  const int first = slab * slab_words(k);
  const int width = words - first < slab_words(k) ? words - first : slab_words(k);
  const int place = (chunk - slab * full) * kChunkWords + fragment_word(lane, reg);
  const int tap = place / width;
  unsigned bits = 0;
  if (channel < arguments.out_channels && tap < k * k) {
    bits = weight_word(arguments, channel, tap, first + place % width);
  }
  at<unsigned>(arguments.prepared)[index] = bits;
}

// The ones of one channel.
BIDIFF_DEVICE void prepare_ones(const PrepareArguments& arguments) {
  const int k = arguments.k, words = ceil_div(arguments.in_channels, kWordBits);
  const PreparedLayout layout = prepared_layout(arguments.out_channels, arguments.in_channels, k);
  const int channel = block_index() * kPrepareThreads + thread_index();
  if (channel >= layout.padded_channels) return;
  int* prepared = at<int>(arguments.prepared);
  unsigned short* ones = reinterpret_cast<unsigned short*>(prepared + layout.ones) + channel;
  int all = 0;
  for (int tap = 0; tap < layout.taps; ++tap) {
    int count = 0;
    if (channel < arguments.out_channels) {
      for (int word = 0; word < words; ++word) {
        count += popcount(weight_word(arguments, channel, tap, word));
      }
    }
    ones[static_cast<long long>(tap) * layout.padded_channels] = static_cast<unsigned short>(count);
    all += count;
  }
  if (layout.taps > 1) prepared[layout.totals + channel] = all;
}

}  // namespace
}  // namespace bidiff::cuda
