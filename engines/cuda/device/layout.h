// Sizes and layouts that host and kernels share: who computes what, and where the bits are stored.
#pragma once

#ifdef __CUDACC__
#define BIDIFF_SHARED static __host__ __device__ __forceinline__
#else
#define BIDIFF_SHARED static inline
#endif

namespace bidiff::cuda {

using Address = unsigned long long;  // of memory on the GPU

constexpr int kWordBits = 32;

// A block of a convolution: 4 warps, kBlockChannels output channels by kBlockPixels pixels. Each
// warp has all the channels and a quarter of the pixels.
constexpr int kConvThreads = 128;
constexpr int kBlockChannels = 32;
constexpr int kBlockPixels = 128;
constexpr int kRun = 8;         // neighbouring pixels of one thread: 16 bytes of float16
constexpr int kChunkWords = 8;  // of K in one multiplication: 256 bits
constexpr int kFragmentWords = kBlockChannels * kChunkWords;  // a block's weights of one chunk

constexpr int kPackThreads = 128;
constexpr int kNormThreads = 256;
constexpr int kNormStep = 8 * kNormThreads;  // elements that a block reads at once
constexpr int kMaxParts = 32;                // of a group's statistics: a lane each
constexpr int kStatisticsSharedBytes = kNormThreads / 32 * 3 * 4;
constexpr int kPackSharedBytes = kWordBits * 20;  // PackShared, pack.h
constexpr int kApplyThreads = 256;
constexpr int kApplyStep = 8 * kApplyThreads;
constexpr int kPrepareThreads = 256;

BIDIFF_SHARED int ceil_div(int a, int b) { return (a + b - 1) / b; }

// K, the dimension that is summed over, is cut into slabs of words, one stage in shared memory
// each. Within a slab the order is tap by tap, and the words of a tap are adjacent, so that a
// narrow map fills a chunk with several taps. The last chunk of a slab is padded with zeros. A
// chunk of a full 3x3 slab is one tap.
BIDIFF_SHARED int slab_words(int k) { return k == 3 ? 8 : 16; }
BIDIFF_SHARED int slab_count(int k, int words) { return ceil_div(words, slab_words(k)); }
BIDIFF_SHARED int slab_chunks(int k, int words) { return ceil_div(k * k * words, kChunkWords); }
BIDIFF_SHARED int chunk_count(int k, int words) {
  const int full = words / slab_words(k), rest = words % slab_words(k);
  return full * slab_chunks(k, slab_words(k)) + slab_chunks(k, rest);
}

// The prepared form of a branch's words, in 32-bit words:
//   fragments  (output blocks, chunks, 2 tiles of 16 channels, 32 lanes, 4 registers)
//   ones       (taps, padded Cout) uint16: how many of the tap's weights are +1
//   totals     (padded Cout) int32: of all taps; omitted if there is only one
struct PreparedLayout {
  int padded_channels, chunks, taps;
  long long ones, totals, words;
};
BIDIFF_SHARED PreparedLayout prepared_layout(int out_channels, int in_channels, int k) {
  PreparedLayout layout;
  const int blocks = ceil_div(out_channels, kBlockChannels);
  layout.padded_channels = blocks * kBlockChannels;
  layout.chunks = chunk_count(k, ceil_div(in_channels, kWordBits));
  layout.taps = k * k;
  layout.ones = static_cast<long long>(blocks) * layout.chunks * kFragmentWords;
  layout.totals = layout.ones + static_cast<long long>(layout.taps) * layout.padded_channels / 2;
  layout.words = layout.totals + (k == 1 ? 0 : layout.padded_channels);
  return layout;
}

// A map of packed words as the convolution reads it: planes of words (N, words, rows, pitch), with
// zeros around the image, so that taps need no bounds check. For k = 1 a map may be one long row:
// then `height` is 1.
struct Geometry {
  int height, width;            // of the image
  int halo;                     // k / 2: rows above and below; twice as many columns, for alignment
  int tile_width, tile_height;  // of a block's pixels
  int tiles_x, tiles_y;
  int rows, pitch;  // of a plane
};
BIDIFF_SHARED int plane_words(const Geometry& map) { return map.rows * map.pitch; }
// A block's part of a plane in shared memory.
BIDIFF_SHARED int halo_width(const Geometry& map) { return map.tile_width + 4 * map.halo; }
BIDIFF_SHARED int halo_height(const Geometry& map) { return map.tile_height + 2 * map.halo; }
// Words from one plane to the next in shared memory. The four lanes of a fragment's column read
// four planes, and its eight columns are in four runs: with a stride of 2 modulo 8 all 32 lanes hit
// different banks.
BIDIFF_SHARED int halo_stride(int halo) { return halo ? 218 : 130; }

// Shared memory of a convolution, in words from its start. `buffers` stages of each array.
struct StageLayout {
  int fragments, planes, zero, offsets, ones, boxes, words;
  int stage_fragments, stage_planes, stage_offsets;  // words of one stage
};
BIDIFF_SHARED StageLayout stage_layout(int k, int words, int buffers, bool counts) {
  const int max_words = words < slab_words(k) ? words : slab_words(k);
  const int chunks = slab_chunks(k, max_words), stride = halo_stride(k / 2);
  StageLayout layout;
  layout.stage_fragments = chunks * kFragmentWords;
  layout.stage_planes = max_words * stride;
  layout.stage_offsets = chunks * kChunkWords;
  layout.fragments = 0;
  layout.planes = buffers * layout.stage_fragments;
  layout.zero = layout.planes + buffers * layout.stage_planes;
  layout.offsets = layout.zero + stride;
  layout.ones = layout.offsets + buffers * layout.stage_offsets;
  // 16-byte aligned: read four at a time.
  layout.boxes = (layout.ones + (counts ? stride : 0) + 3) & ~3;
  layout.words = layout.boxes + (counts ? kBlockPixels : 0);
  return layout;
}

}  // namespace bidiff::cuda
