// The grid of a scaled convolution, its weights' form, and packing. Unnamed namespace as in
// bitslice.h.
#pragma once

#include <string.h>

#include "inline.h"
#include "support.h"

namespace bidiff {
namespace {

constexpr int kTileVectors = 2, kTileChannels = 4;
constexpr int64_t kLinePixels = 64;       // of a line for k = 1
constexpr int64_t kPackedLines = 4;       // lines that a task packs
constexpr int64_t kBandBytes = 24 << 10;  // of packed words, which stay in the L1 cache
constexpr int64_t kScaledTasks = 4;       // a processor
constexpr int kRows = 4;                  // of `down` that are multiplied at a time

struct ScaledRun {
  const Problem* problem;
  const uint32_t* weights;  // [Cout/4][tap][word][4], padding bits cleared
  int64_t words;
  int64_t lines, line;  // of an image, pixels of each
  int64_t pitch;        // cells from line to line
  int64_t lead, plane;  // cells before line 0, and of a plane
  int64_t band;         // lines convolved at a time
  int64_t task_groups;  // groups of output channels of a task
  float full;           // Cin / 2
  int64_t image;
  uint32_t *bits, *filled;  // planes of words: x >= 0, x != 0
  float *scale, *half;      // planes: mean |x|, half the number of x != 0
  float* low;               // `rank` planes
  volatile int zeros;       // whether any x is 0
  TaskFailure failure;

  BIDIFF_INLINE_MEMBER int64_t cell(int64_t at) const { return lead + at * pitch; }
  BIDIFF_INLINE_MEMBER int64_t first_pixel(int64_t at) const { return at * line; }
  BIDIFF_INLINE_MEMBER int64_t pixels_of(int64_t at) const {
    const int64_t left = problem->shape.height * problem->shape.width - at * line;
    return left < line ? left : line;
  }
};

BIDIFF_INLINE int64_t tile_groups(const Shape& shape) {
  return (shape.out_channels + kTileChannels - 1) / kTileChannels;
}

size_t scaled_packed_bytes(const Shape& shape) {
  return static_cast<size_t>(tile_groups(shape) * kTileChannels * shape.kernel * shape.kernel *
                             words_per_tap(shape)) *
         sizeof(uint32_t);
}

void scaled_pack(const Shape& shape, const int32_t* words, void* packed) {
  uint32_t* out = static_cast<uint32_t*>(packed);
  const int64_t per_tap = words_per_tap(shape), of_channel = shape.kernel * shape.kernel * per_tap;
  const int64_t rest = shape.in_channels % kWordBits;
  for (int64_t channel = 0; channel < tile_groups(shape) * kTileChannels; ++channel) {
    uint32_t* group = out + channel / kTileChannels * of_channel * kTileChannels;
    for (int64_t i = 0; i < of_channel; ++i) {
      uint32_t word = 0;
      if (channel < shape.out_channels)
        word = static_cast<uint32_t>(words[channel * of_channel + i]);
      if (rest && i % per_tap == per_tap - 1) word &= (uint32_t{1} << rest) - 1;
      group[i * kTileChannels + channel % kTileChannels] = word;
    }
  }
}

template <class Vec>
BIDIFF_INLINE void lay_grid(const Problem& problem, const void* packed, ScaledRun* run) {
  const Shape& shape = problem.shape;
  const int64_t half = shape.kernel / 2, pixels = shape.height * shape.width;
  constexpr int64_t kTile = kTileVectors * Vec::kLanes;
  run->problem = &problem;
  run->weights = static_cast<const uint32_t*>(packed);
  run->words = words_per_tap(shape);
  run->full = static_cast<float>(shape.in_channels) * 0.5f;
  run->line = half ? shape.width : kLinePixels;
  run->lines = half ? shape.height : (pixels + kLinePixels - 1) / kLinePixels;
  run->pitch = run->line + half;
  run->lead = half * run->pitch + Vec::kLanes;
  // A line below, and what the last tile reads beyond it.
  const int64_t cells = run->lead + (run->lines + half) * run->pitch + half + kTile;
  run->plane = (cells / 16 | 1) * 16 + 16;  // an odd number of cache lines, against aliasing
  const int64_t line_bytes = run->pitch * run->words * int64_t{sizeof(uint32_t)};
  run->band = kBandBytes / line_bytes > 1 ? kBandBytes / line_bytes : 1;
  const int64_t tasks = kScaledTasks * processors();
  run->task_groups = (tile_groups(shape) + tasks - 1) / tasks;
}

// Scales outside the image are 0; so is all that is multiplied by them, lest it be NaN.
BIDIFF_INLINE void clear_grid(ScaledRun* run, void* memory) {
  run->bits = static_cast<uint32_t*>(memory);
  run->filled = run->bits + run->words * run->plane;
  run->scale = reinterpret_cast<float*>(run->filled + run->words * run->plane);
  run->half = run->scale + run->plane;
  run->low = run->half + run->plane;
  const int64_t floats = (2 + run->problem->branches->rank) * run->plane;
  memset(run->scale, 0, static_cast<size_t>(floats) * sizeof(float));
  run->zeros = 0;
}

// Pixels that are packed together: channels are far apart in memory, so more than one cache line of
// each is read at a time, and some channels ahead are prefetched.
template <class Vec, bool kFull>
struct Piece {
  const float* x;  // of channel 0
  int64_t cell;
  int pixels;

  BIDIFF_INLINE_MEMBER int lanes(int v) const {
    if (kFull) return Vec::kLanes;
    const int left = pixels - v * Vec::kLanes;
    return left < 0 ? 0 : left < Vec::kLanes ? left : Vec::kLanes;
  }
};
constexpr int kPieceVectors = 4;
constexpr int64_t kChannelsAhead = 8;

// Adds down . x of the channels of one word to the sums in `low`.
template <class Vec, bool kFull>
BIDIFF_INLINE void multiply_down(const ScaledRun& run, const Piece<Vec, kFull>& piece,
                                 int64_t first, int64_t past) {
  using Floats = typename Vec::Floats;
  const Shape& shape = run.problem->shape;
  const Branches& branches = *run.problem->branches;
  const int64_t plane = shape.height * shape.width, channels = shape.in_channels;
  for (int64_t row = 0; row < branches.rank; row += kRows) {
    const int64_t rows = branches.rank - row < kRows ? branches.rank - row : kRows;
    const float* down[kRows];
    for (int i = 0; i < kRows; ++i) down[i] = branches.down + (row + (i < rows ? i : 0)) * channels;
    for (int v = 0; v < kPieceVectors && piece.lanes(v); ++v) {
      const int lanes = piece.lanes(v);
      Floats parts[kRows];
      for (int i = 0; i < kRows; ++i) parts[i] = Vec::broadcast_float(0.0f);
      for (int64_t channel = first; channel < past; ++channel) {
        const Floats value = Vec::load_floats(piece.x + channel * plane + v * Vec::kLanes, lanes);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          const Floats factor = Vec::broadcast_float(down[i][channel]);
          parts[i] = Vec::add_float(parts[i], Vec::multiply(factor, value));
        }
      }
      for (int i = 0; i < rows; ++i) {
        float* low = run.low + (row + i) * run.plane + piece.cell + v * Vec::kLanes;
        Vec::store_floats(low, Vec::add_float(Vec::load_floats(low, lanes), parts[i]), lanes);
      }
    }
  }
}

// Bits, scales, numbers of non-zeros and down . x of a piece. Returns whether an x is 0.
template <class Vec, class Count, bool kFull>
__attribute__((noinline)) bool pack_piece(const ScaledRun& run, const Piece<Vec, kFull>& piece) {
  using Floats = typename Vec::Floats;
  using Bits = typename Vec::Bits;
  const Shape& shape = run.problem->shape;
  const int64_t plane = shape.height * shape.width, channels = shape.in_channels;
  Floats total[kPieceVectors];
  Bits count[kPieceVectors];
  for (int v = 0; v < kPieceVectors; ++v) {
    total[v] = Vec::broadcast_float(0.0f);
    count[v] = Vec::zero();
  }
  for (int64_t first = 0; first < channels; first += kWordBits) {
    const int64_t past = first + kWordBits < channels ? first + kWordBits : channels;
    Bits bits[kPieceVectors], filled[kPieceVectors];
    Floats part[kPieceVectors];
    for (int v = 0; v < kPieceVectors; ++v) {
      bits[v] = filled[v] = Vec::zero();
      part[v] = Vec::broadcast_float(0.0f);
    }
    for (int64_t channel = first; channel < past; ++channel) {
      const float* x = piece.x + channel * plane;
      if (channel + kChannelsAhead < channels) {
        const float* next = x + kChannelsAhead * plane;
        for (int i = 0; i < piece.pixels; i += 16) Vec::prefetch(next + i);
      }
      const Bits bit = Vec::broadcast(uint32_t{1} << (channel - first));
#pragma GCC unroll 4
      for (int v = 0; v < kPieceVectors; ++v) {
        const Floats value = Vec::load_floats(x + v * Vec::kLanes, piece.lanes(v));
        bits[v] = Vec::mark_positive(bits[v], value, bit);
        filled[v] = Vec::mark_filled(filled[v], value, bit);
        part[v] = Vec::add_float(part[v], Vec::magnitude(value));
      }
    }
    const int64_t at = first / kWordBits * run.plane + piece.cell;
    for (int v = 0; v < kPieceVectors; ++v) {
      const int64_t to = at + v * Vec::kLanes;
      Vec::store_integers(reinterpret_cast<int32_t*>(run.bits + to), bits[v], piece.lanes(v));
      Vec::store_integers(reinterpret_cast<int32_t*>(run.filled + to), filled[v], piece.lanes(v));
      count[v] = Count::accumulate(count[v], Count::add(Vec::zero(), filled[v]));
      total[v] = Vec::add_float(total[v], part[v]);
    }
    multiply_down<Vec, kFull>(run, piece, first, past);
  }
  const Floats all = Vec::broadcast_float(static_cast<float>(channels));
  for (int v = 0; v < kPieceVectors; ++v) {
    const int64_t to = piece.cell + v * Vec::kLanes;
    const Floats half = Vec::multiply(Vec::to_float(count[v]), Vec::broadcast_float(0.5f));
    Vec::store_floats(run.scale + to, Vec::divide(total[v], all), piece.lanes(v));
    Vec::store_floats(run.half + to, half, piece.lanes(v));
  }
  bool zeros = false;
  for (int i = 0; i < piece.pixels; ++i) zeros |= run.half[piece.cell + i] != run.full;
  return zeros;
}

template <class Vec, class Count>
void pack_lines(void* user, size_t index) {
  ScaledRun& run = *static_cast<ScaledRun*>(user);
  const Shape& shape = run.problem->shape;
  const int64_t plane = shape.height * shape.width;
  const int64_t first = static_cast<int64_t>(index) * kPackedLines;
  const int64_t past = first + kPackedLines < run.lines ? first + kPackedLines : run.lines;
  for (int64_t line = first; line < past; ++line) {
    const int64_t pixels = run.pixels_of(line);
    const float* x = run.problem->x + run.image * shape.in_channels * plane + run.first_pixel(line);
    constexpr int64_t kMost = kPieceVectors * Vec::kLanes;
    for (int64_t i = 0; i < pixels; i += kMost) {
      const int64_t left = pixels - i < kMost ? pixels - i : kMost;
      const int64_t cell = run.cell(line) + i;
      const int count = static_cast<int>(left);
      const bool zeros = left == kMost
                             ? pack_piece<Vec, Count>(run, Piece<Vec, true>{x + i, cell, count})
                             : pack_piece<Vec, Count>(run, Piece<Vec, false>{x + i, cell, count});
      if (zeros) __atomic_store_n(&run.zeros, 1, __ATOMIC_RELAXED);
    }
  }
}

}  // namespace
}  // namespace bidiff
