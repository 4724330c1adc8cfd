// Signs of a map, packed: 32 channels to a word, in planes of words with zeros around the image.
//
// A thread makes one word: it reads 32 channels of one pixel, and its neighbours read the
// neighbouring pixels. Swish of the norm is computed on the way and not stored; the convolution's
// epilogue computes it again if it is the residual, to the same bits.
#pragma once

#include "norm.h"

namespace bidiff::cuda {
namespace {

// What the threads of a block share: the 32 channels of its word.
struct PackShared {
  Address plane[kWordBits];
  float threshold[kWordBits];
  Affine affine[kWordBits];
};
static_assert(sizeof(PackShared) == kPackSharedBytes, "the plan asks for it");

template <class Element, bool kNorm>
BIDIFF_DEVICE void find_channels(const PackArguments& arguments, const PackBranch& branch,
                                 int image, int first, int count, bool writes, PackShared* shared) {
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  if (warp == 0 && lane < count) {
    const int channel = first + lane;
    shared->plane[lane] =
        reinterpret_cast<Address>(plane_of<Element>(branch.input, image, channel, arguments.plane));
    shared->threshold[lane] =
        branch.threshold ? load(at<const float>(branch.threshold) + channel) : 0.0f;
  }
  if (kNorm) {
    const int group_channels = arguments.norm.channels / arguments.norm.groups;
    const int first_group = first / group_channels, last = (first + count - 1) / group_channels;
    for (int group = first_group + warp; group <= last; group += kPackThreads / 32) {
      const GroupMoments moments = group_moments(arguments.norm, image, group);
      // A word may begin and end within a group.
      const int channel = first + lane;
      if (lane < count && channel / group_channels == group) {
        const Affine pair = channel_affine(arguments.norm, moments, channel);
        shared->affine[lane] = pair;
        if (writes) {
          at<Affine>(
              arguments.affine)[static_cast<long long>(image) * arguments.channels + channel] =
              pair;
        }
      }
    }
  }
  synchronize_block();
}

template <class Element, bool kNorm>
BIDIFF_DEVICE unsigned sign_bit(const PackShared& shared, int i, float x) {
  const float h = kNorm ? swish(x, shared.affine[i]) : x;
  return add(h, shared.threshold[i]) >= 0.0f ? 1u << i : 0u;
}

template <class Element, bool kNorm>
BIDIFF_DEVICE void pack(const PackArguments& arguments) {
  PackShared& shared = *reinterpret_cast<PackShared*>(shared_memory());
  const Geometry& map = arguments.map;
  const int block = block_index() % arguments.blocks, unit = block_index() / arguments.blocks;
  const int image = unit / arguments.branches, word = block_row();
  const PackBranch& branch = arguments.branch[unit % arguments.branches];
  const int first = word * kWordBits;
  const int count = arguments.channels - first < kWordBits ? arguments.channels - first : kWordBits;
  find_channels<Element, kNorm>(arguments, branch, image, first, count, block == 0, &shared);

  const int index = block * kPackThreads + thread_index();
  if (index >= plane_words(map)) return;
  const int row = index / map.pitch;
  const int y = row - map.halo, x = index - row * map.pitch - 2 * map.halo;
  unsigned bits = 0;
  if (y >= 0 && y < map.height && x >= 0 && x < map.width) {
    const int pixel = y * map.width + x;
    if (count == kWordBits) {
#pragma unroll
      for (int part = 0; part < kWordBits; part += 16) {
        Element values[16];  // all loads are issued before the first is used
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          values[i] = load(at<const Element>(shared.plane[part + i]) + pixel);
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          bits |= sign_bit<Element, kNorm>(shared, part + i, to_float(values[i]));
        }
      }
    } else {
      for (int i = 0; i < count; ++i) {
        const Element value = load(at<const Element>(shared.plane[i]) + pixel);
        bits |= sign_bit<Element, kNorm>(shared, i, to_float(value));
      }
    }
  }
  at<unsigned>(
      branch.packed)[(static_cast<long long>(image) * arguments.words + word) * plane_words(map) +
                     index] = bits;
}

}  // namespace
}  // namespace bidiff::cuda
